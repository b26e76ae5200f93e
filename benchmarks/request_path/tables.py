"""The tables of docs/tables/serving.md."""

from __future__ import annotations

from benchmarks._markdown import Figures, measured_on, table

_AIMS = {"SQLite": ("4.5", "3.5", "9"), "predictor": ("3.3", "3", "7")}  # CPU at 1 and 8 connections, p99 at 1


def serving_tables(figures: Figures) -> str:
    """The request path: targets, closed loops, stages, overload."""
    stock, handler = figures["stock"]["32"], figures["handler"]["32"]
    paths = {
        "SQLite": figures["router_sqlite"],
        "Redis": figures["router_redis"],
        "predictor": figures["router_predictor"],
    }
    lines = [
        [
            "handler / stock TorchServe, decisions/s at 32 connections, at least",
            "4",
            f"{_per_second(handler, stock):.1f}",
        ],
        ["handler, CPU ms a decision, at most", "0.6", f"{handler['cpu_ms']:.2f}"],
    ]
    for name, what in (("ledger_sqlite", "a reservation, SQLite"), ("ledger_redis", "a reservation, Redis")):
        lines.append([f"{what}, alone, p50 in ms, at most", "0.3", f"{figures['stores_ms'][name]:.2f}"])
    lines.append(
        ["a record of the decision log, alone, p50 in ms, at most", "0.3", f"{figures['stores_ms']['log']:.2f}"]
    )
    for name, path in paths.items():
        loads, offered = path["loads"], path["offered"]
        overload, peak = offered["2"], max(map(_goodput, offered.values()))
        one, late = loads["1"]["latency_ms"]["200"], overload["latency_ms"].get("200", {"p99": float("nan")})
        bad = sum(count for status, count in overload["statuses"].items() if status.startswith("5"))
        median = one["p50"]
        grown = path["memory_mib"]["after"] / path["memory_mib"]["before"]
        default = sum(overload["fallbacks"].values()) / max(overload["statuses"].get("200", 0), 1)
        lines += [
            [
                f"{name}: router, CPU ms a decision at 8 connections, at most",
                "1.2",
                f"{path['router_cpu_ms']['8']:.2f}",
            ],
            [f"{name}: decisions/s a router process, at least", "800", f"{max(map(_goodput, loads.values())):.0f}"],
            [f"{name}: one connection, p50 in ms, at most", "6", f"{one['p50']:.1f}"],
            [f"{name}: one connection, p99 in ms, at most", "15", f"{one['p99']:.1f}"],
            [f"{name}: first decision / median, at most", "3", f"{path['first_decision_ms'] / median:.1f}"],
            [
                f"{name}: at twice the capacity, p99 of answers in ms, at most (the deadline)",
                f"{path['deadline_ms']:g}",
                f"{late['p99']:.0f}",
            ],
            [f"{name}: at twice the capacity, default actions in 100 answers, at most", "1", f"{100 * default:.2f}"],
            [
                f"{name}: at twice the capacity, decisions in full / the most at any load offered, at least",
                "0.9",
                f"{_goodput(overload) / peak:.2f}",
            ],
            [f"{name}: at twice the capacity, answers 5xx, at most", "0", str(bad)],
            [f"{name}: at twice the capacity, router's memory after / before, at most", "1.1", f"{grown:.2f}"],
        ]
    lines += [line for name, aims in _AIMS.items() for line in _ratios(name, aims, paths[name], figures)]
    rows = []
    for what, aim, value in lines:
        met = float(value) >= float(aim) if "at least" in what else float(value) <= float(aim)
        rows.append([what, aim, value, "yes" if met else "no"])
    text = "A run with `--quick`: three seconds for each figure.\n\n" if figures["quick"] else ""
    text += "**Targets**\n\n" + table(["", "target", "measured", "met"], rows)
    forward = figures["forward_cpu_ms"]
    text += "\n**Closed loops**: decisions in full/s, p50 and p99 of answers in ms, CPU ms of the servers "
    text += "for each decision in full\n\n"
    servers = {
        "TorchServe, stock handler": figures["stock"],
        "TorchServe, our handler": figures["handler"],
        "kserve.Model predictor": figures["predictor"],
        "the whole path, ledger on SQLite": figures["router_sqlite"]["loads"],
        "the whole path, ledger on Redis": figures["router_redis"]["loads"],
        "the whole path, SQLite, models on the predictor's socket": figures["router_predictor"]["loads"],
    }
    text += table(
        ["", *(f"{n} connection{'s' * (n != '1')}" for n in ("1", "8", "32"))],
        [[name, *(_loop(loads[n]) for n in ("1", "8", "32"))] for name, loads in servers.items()],
    )
    text += "\n**The limit**, CPU ms a window on one thread, without any server\n\n"
    parts = {
        "encoding": "reading and encoding it",
        "graph": "the network, as served",
        "every_step": "the same over the whole window",
        "torch": "the same in torch",
    }
    text += table(
        ["", *(f"batches of {size}" for size in forward["graph"])],
        [[what, *(f"{ms:.3f}" for ms in forward[name].values())] for name, what in parts.items()],
    )
    text += "\n**Where the time goes**, mean ms of a stage (a batch shares its stages)\n\n"
    stages = ("features", "model", "ledger", "log")
    text += table(
        ["", *stages],
        [
            [
                f"{name}, {n} connection{'s' * (n != '1')}",
                *(f"{path['stages_ms'][n].get(stage, 0):.2f}" for stage in stages),
            ]
            for name, path in paths.items()
            for n in ("1", "8", "32")
        ],
    )
    text += "\n**Goodput by the load offered**, open loops; x2.0 is twice the best closed loop\n\n"
    text += table(
        ["", "asked/s", "in full/s", "CPU ms", "answers", "default actions", "come again (429)", "5xx", "p50, p99"],
        [
            [f"{name}, x{float(load):.1f}", *_offered(result)]
            for name, path in paths.items()
            for load, result in path["offered"].items()
        ],
    )
    return text + measured_on(figures, "serving.py")


def _ratios(name: str, aims: tuple[str, str, str], path: Figures, figures: Figures) -> list[list[str]]:
    """The path's cost in those of its arithmetic: reading, encoding and the network alone."""
    forward = figures["forward_cpu_ms"]
    limit = {size: forward["encoding"][size] + forward["graph"][size] for size in ("1", "8")}
    one, eight = path["loads"]["1"], path["loads"]["8"]
    found = (one["cpu_ms"] / limit["1"], eight["cpu_ms"] / limit["8"], one["latency_ms"]["200"]["p99"] / limit["1"])
    what = ("CPU at one connection", "CPU at 8 connections", "p99 at one connection")
    return [
        [f"{name}: {words} / the limit of that batch, at most", aim, f"{ratio:.1f}"]
        for words, aim, ratio in zip(what, aims, found, strict=True)
    ]


def _per_second(one: Figures, other: Figures) -> float:
    return float(one["per_second"]) / float(other["per_second"])


def _goodput(result: Figures) -> float:
    """Decisions answered in full, a second."""
    decided = result["statuses"].get("200", 0) - sum(result["fallbacks"].values())
    return float(result["per_second"]) * decided / result["requests"]


def _loop(result: Figures) -> str:
    ok = result["latency_ms"].get("200")
    if ok is None:
        return "no answer"
    requests = result["requests"]
    default, refused = sum(result["fallbacks"].values()), requests - result["statuses"]["200"]
    text = f"{_goodput(result):,.0f}/s, {ok['p50']:.1f}, {ok['p99']:.1f}, {result['cpu_ms']:.2f}"
    if default + refused < 0.001 * requests:
        return text
    return f"{text}; {default / requests:.0%} default actions, {refused / requests:.0%} sent away"


def _offered(result: Figures) -> list[str]:
    statuses = result["statuses"]
    ok = result["latency_ms"].get("200", {"p50": float("nan"), "p99": float("nan")})
    return [
        f"{result['asked_per_second']:,.0f}",
        f"{_goodput(result):,.0f}",
        f"{result['cpu_ms']:.2f}",
        f"{statuses.get('200', 0):,}",
        f"{sum(result['fallbacks'].values()):,}",
        f"{statuses.get('429', 0):,}",
        str(sum(count for status, count in statuses.items() if status.startswith("5"))),
        f"{ok['p50']:.0f}, {ok['p99']:.0f} ms",
    ]
