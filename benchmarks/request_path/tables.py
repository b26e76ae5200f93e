"""Formats the tables of docs/tables/serving.md."""

from benchmarks._markdown import Figures, Show, measured_on, table, table_of, targets

Aim = tuple[str, float, float, str]
"""A target of a measurement: its name, the target value, the measured value, and the format of the value."""
CONNECTIONS = {"1": "1 connection", "8": "8 connections", "32": "32 connections"}
_NO_ANSWER = {"p50": float("nan"), "p99": float("nan")}
PATHS = {"SQLite": "router_sqlite", "Redis": "router_redis", "predictor": "router_predictor"}
# Targets at 1 and at 8 connections, as multiples of the least possible CPU time.
_OF_LIMIT = (6, 10)


def serving_tables(figures: Figures) -> str:
    paths = {name: figures[key] for name, key in PATHS.items()}
    aims: list[Aim] = [("handler, CPU ms a decision, at most", 0.6, figures["handler"]["32"]["cpu_ms"], ".2f")]
    for name, path in paths.items():
        aims += [(f"{name}: {what}", *rest) for what, *rest in _path_aims(path)]
        aims += [(f"{name}: {what}", *rest) for what, *rest in _limit_aims(path, figures)]
    text = ("A run with `--quick`: three seconds for each figure.\n\n" if figures["quick"] else "") + targets(aims)
    text += "\n**Closed loops**: decisions in full/s, p50 and p99 of answers in ms, CPU ms of the servers "
    text += "for each decision in full\n\n"
    servers = {
        "TorchServe, our handler": figures["handler"],
        "kserve.Model predictor": figures["predictor"],
        "the whole path, ledger on SQLite": figures["router_sqlite"]["loads"],
        "the whole path, ledger on Redis": figures["router_redis"]["loads"],
        "the whole path, SQLite, models on the predictor's socket": figures["router_predictor"]["loads"],
    }
    rows = [[name, *(in_short(loads[n]) for n in CONNECTIONS)] for name, loads in servers.items()]
    text += table(["", *CONNECTIONS.values()], rows)
    text += "\n**The limit**, CPU ms a window on one thread, without any server\n\n"
    forward = figures["forward_cpu_ms"]
    parts = {"encoding": "reading and encoding it", "graph": "the network, as served"}
    rows = [[what, *(f"{ms:.3f}" for ms in forward[name].values())] for name, what in parts.items()]
    text += table(["", *(f"batches of {size}" for size in forward["graph"])], rows)
    text += "\n**Where the time goes**, mean ms of a stage (a batch shares its stages)\n\n"
    stages = ("features", "model", "ledger", "log")
    rows = [
        [f"{name}, {words}", *(f"{path['stages_ms'][n].get(stage, 0):.2f}" for stage in stages)]
        for name, path in paths.items()
        for n, words in CONNECTIONS.items()
    ]
    text += table(["", *stages], rows)
    text += (
        "\n**A profile of the router**, ledger on SQLite, 8 connections: shares of the samples in which a thread holds "
    )
    text += "Python's global lock, by the innermost function of this project\n\n"
    profile = figures["router_sqlite"]["profile"]
    text += table(["function", "share"], [[f"`{name}`", f"{share:.1%}"] for name, share in profile.items()])
    text += "\n**Goodput by the load offered**, open loops; x2.0 is twice the best closed loop\n\n"
    offered = [
        {"name": f"{name}, x{float(load):.1f}", **result, "ok": result["latency_ms"].get("200", _NO_ANSWER)}
        for name, path in paths.items()
        for load, result in path["offered"].items()
    ]
    return text + table_of(_OFFERED, offered) + measured_on(figures, "serving.py")


def _path_aims(path: Figures) -> list[Aim]:
    loads, one = path["loads"], path["loads"]["1"]["latency_ms"]["200"]
    grown = path["memory_mib"]["after"] / path["memory_mib"]["before"]
    aims: list[Aim] = [
        ("router, CPU ms a decision at 8 connections, at most", 1.2, path["router_cpu_ms"]["8"], ".2f"),
        ("decisions/s a router process, at least", 800, max(map(goodput, loads.values())), ".0f"),
        ("one connection, p50 in ms, at most", 6, one["p50"], ".1f"),
        ("one connection, p99 in ms, at most", 15, one["p99"], ".1f"),
        ("first decision / median, at most", 3, path["first_decision_ms"] / one["p50"], ".1f"),
        ("decisions/s at 32 connections / at 8, at least", 1, goodput(loads["32"]) / goodput(loads["8"]), ".2f"),
        ("overload, router's memory after / before, at most", 1.1, grown, ".2f"),
    ]
    for load in sorted({"2", "4"} & path["offered"].keys()):
        overload, at = path["offered"][load], f"at {load} times the capacity,"
        late = overload["latency_ms"].get("200", _NO_ANSWER)["p99"]
        default = 100 * sum(overload["fallbacks"].values()) / max(overload["statuses"].get("200", 0), 1)
        full = goodput(overload) / max(map(goodput, path["offered"].values()))
        aims += [
            (f"{at} p99 of answers in ms, at most (the deadline)", path["deadline_ms"], late, ".0f"),
            (f"{at} default actions in 100 answers, at most", 1, default, ".2f"),
            (f"{at} decisions in full / the most at any load offered, at least", 0.9, full, ".2f"),
            (f"{at} answers 5xx, at most", 0, _failed(overload), "d"),
        ]
    return aims


def _limit_aims(path: Figures, figures: Figures) -> list[Aim]:
    """List the targets for CPU time, as multiples of the CPU time for encoding and the network alone."""
    forward, one, eight = figures["forward_cpu_ms"], path["loads"]["1"], path["loads"]["8"]
    limit = {size: forward["encoding"][size] + forward["graph"][size] for size in ("1", "8")}
    aim = "the limit of that batch, at most"
    return [
        (f"CPU at one connection / {aim}", _OF_LIMIT[0], one["cpu_ms"] / limit["1"], ".1f"),
        (f"CPU at 8 connections / {aim}", _OF_LIMIT[1], eight["cpu_ms"] / limit["8"], ".1f"),
    ]


def decided(result: Figures) -> int:
    """Return the number of decisions by a model or policy, without default actions."""
    return int(result["statuses"].get("200", 0) - sum(result["fallbacks"].values()))


def goodput(result: Figures) -> float:
    return float(result["per_second"]) * decided(result) / max(result["requests"], 1)


def in_short(result: Figures) -> str:
    if (ok := result["latency_ms"].get("200")) is None:
        return "no answer"
    requests = result["requests"]
    default, refused = sum(result["fallbacks"].values()), requests - result["statuses"]["200"]
    text = f"{goodput(result):,.0f}/s, {ok['p50']:.1f}, {ok['p99']:.1f}, {result['cpu_ms']:.2f}"
    if default + refused < 0.001 * requests:
        return text
    return f"{text}; {default / requests:.0%} default actions, {refused / requests:.0%} refused"


def _failed(result: Figures) -> int:
    return sum(count for status, count in result["statuses"].items() if status.startswith("5"))


_OFFERED: dict[str, Show] = {
    "": lambda result: result["name"],
    "asked/s": lambda result: f"{result['asked_per_second']:,.0f}",
    "in full/s": lambda result: f"{goodput(result):,.0f}",
    "CPU ms": lambda result: f"{result['cpu_ms']:.2f}",
    "answers": lambda result: f"{result['statuses'].get('200', 0):,}",
    "default actions": lambda result: f"{sum(result['fallbacks'].values()):,}",
    "refused (429)": lambda result: f"{result['statuses'].get('429', 0):,}",
    "5xx": lambda result: str(_failed(result)),
    "p50, p99": lambda result: f"{result['ok']['p50']:.0f}, {result['ok']['p99']:.0f} ms",
}
