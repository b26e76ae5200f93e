"""Formats the tables of `benchmarks/scale.py`."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from benchmarks._markdown import Figures, measured_on, table
from benchmarks.scale_runs.made_lake import EXPERIMENTS

MOST_MIB, MOST_SECONDS, MOST_RATIO, MOST_USERS = 1_024, 5.0, 1.2, 20_000_000
# Decisions in an hour with a thousand per second.
TRAFFIC = 3_600_000
STEPS = {
    "compact": "compaction",
    "first_judge": "judged rows, the first time",
    "judge": "judged rows",
    "measure": "the monitor's measures",
    "first_look": "a first look",
    "sums": "the day's sums of an experiment",
    "look": "a look",
}


def scale_tables(figures: Figures) -> str:
    parts = {"lake": _lake, "hour": _hour, "evaluation": _evaluation, "ledger": _ledger}
    parts |= {"histories": _histories, "start": _start, "traffic": _traffic}
    text = "\n".join(made(figures[name]) for name, made in parts.items() if name in figures)
    return text + measured_on(figures, "scale.py")


def _said(limits: Iterable[tuple[str, bool]]) -> str:
    return "\n" + "".join(f"- {what}: {'holds' if holds else '**does not hold**'}\n" for what, holds in limits)


def _lake(found: Mapping[str, Any]) -> str:
    found = {size: {**of, "log": int(size)} for size, of in found.items()}
    sizes = sorted(found, key=int)
    steps = [step for step in STEPS if all(step in of for of in found.values())]
    heads = ["the log", *(f"{int(size) / 1e6:g}M decisions" for size in sizes)]

    def row(what: str, show: Any) -> list[str]:
        return [what, *(show(found[size]) for size in sizes)]

    def cpu(step: str, of: Mapping[str, Any]) -> float:
        return float(1e6 * of[step]["cpu_seconds"] / of["made"]["new"])

    each = {
        "CPU us a new decision": lambda of, step: f"{cpu(step, of):,.0f}",
        "CPU us a decision of the log": lambda of, step: f"{1e6 * of[step]['cpu_seconds'] / of['log']:,.1f}",
        "seconds": lambda of, step: f"{of[step]['seconds']:,.1f}",
        "peak MiB": lambda of, step: f"{of[step]['peak_mib']:,.0f}",
    }
    rows = [
        row("decisions of the last day", lambda of: f"{of['made']['new']:,}"),
        row("users", lambda of: f"{of['made']['users']:,}"),
        *(
            row(f"{STEPS[step]}, {unit}", partial(show, step=step))
            for unit, show in each.items()
            for step in steps
            if "of the log" not in unit or step in ("judge", "first_look", "look")
        ),
        row("a look, users of the experiment", lambda of: f"{of['look']['users']:,}"),
        row("a look, files opened", lambda of: f"{of['look']['files']:,}"),
    ]
    if "sums" in steps:
        rows += [
            row("sums of an experiment, files", lambda of: f"{of['look']['sums']:,}"),
            row("sums, bytes a decision", lambda of: f"{EXPERIMENTS * of['look']['sums_bytes'] / of['log']:.0f}"),
        ]
    first, last = found[sizes[0]], found[sizes[-1]]
    grown = [sum(cpu(step, of) for step in ("compact", "judge", "sums") if step in steps) for of in (first, last)]
    most = max(of[step]["peak_mib"] for of in found.values() for step in steps)
    limits = [
        (f"peak memory of each step at most {MOST_MIB:,} MiB", most <= MOST_MIB),
        ("a look opens at most 28 x 64 files", max(of["look"]["files"] for of in found.values()) <= 28 * 64),
    ]
    if len(sizes) > 1:
        more_users = last["made"]["users"] - first["made"]["users"]
        by_user = (last["look"]["cpu_seconds"] - first["look"]["cpu_seconds"]) / more_users
        whole, ratio = (first["look"]["cpu_seconds"] + MOST_USERS * by_user) / 2, grown[1] / grown[0]
        look = f"a look with {MOST_USERS / 1e6:g}M users in the log, extrapolated"
        night = "CPU of compaction, judged rows and sums a new decision, largest / smallest"
        limits.append((f"{look}: {whole:,.0f} s of two cores (at most 15)", whole <= 15))
        limits.append((f"{night}: {ratio:.2f} (at most {MOST_RATIO})", ratio <= MOST_RATIO))
    return f"**The last day of a lake**\n\n{table(heads, rows)}{_said(limits)}"


def _hour(found: Mapping[str, Any]) -> str:
    new, steps = found["made"]["new"], [step for step in STEPS if step in found]
    rows = [
        [STEPS[step], f"{1e6 * of['cpu_seconds'] / new:,.0f}", f"{of['seconds']:,.1f}", f"{of['peak_mib']:,.0f}"]
        for step in steps
        for of in (found[step],)
    ]
    heads = [f"{new:,} decisions", "CPU us a decision", "seconds", "peak MiB"]
    bounded = all(found[step]["peak_mib"] <= MOST_MIB for step in steps)
    limit = (f"peak memory of each step at most {MOST_MIB:,} MiB", bounded)
    disk = f"\nTemporary files of the compaction: {found['compact']['scratch_mib']:,.0f} MiB.\n"
    return f"**One hour, all at once**\n\n{table(heads, rows)}{disk}{_said([limit])}"


def _evaluation(found: Mapping[str, Any]) -> str:
    rows = [
        [f"{int(size) / 1e6:g}M", f"{of['seconds']:,.0f}", f"{of['peak_mib']:,.0f}", f"{of['test_rows']:,}"]
        for size, of in found.items()
    ]
    most = max(of["peak_mib"] for of in found.values())
    shown = table(["rows of the log", "seconds", "peak MiB", "rows judged"], rows)
    return f"**An evaluation**\n\n{shown}{_said([('peak memory at most 2,048 MiB', most <= 2_048)])}"


def _ledger(found: Mapping[str, Any]) -> str:
    heads = ["an exposure: reserved and settled", "commands", "CPU us", "bytes of network", "bytes of memory"]
    names = ("commands", "cpu_us", "network_bytes", "memory_bytes")
    kept = [[end, f"{size:,.0f}"] for end, size in found["reservations"].items()]
    reservations = table(["a reservation with its request", "bytes of memory"], kept)
    rows = [[of, *(f"{each[name]:,.1f}" for name in names)] for of, each in found["exposures"].items()]
    commands = [each["commands"] for each in found["exposures"].values()]
    sent = [each["network_bytes"] for each in found["exposures"].values()]
    heads2 = ["pacing, ms of CPU a second", "the router that paces", "all others together", "Redis"]
    paced = [
        [of, *(f"{each[name]:,.1f}" for name in ("leader_ms", "readers_ms", "redis_ms"))]
        for of, each in found["pacing"].items()
    ]
    limits = [
        ("commands of an exposure constant within 20 %", max(commands) <= 1.2 * min(commands)),
        ("bytes of an exposure constant within 20 %", max(sent) <= 1.2 * min(sent)),
    ]
    together = {of: each["leader_ms"] + each["readers_ms"] for of, each in found["pacing"].items()}
    few, many = (max(total for of, total in together.items() if of.endswith(f", {n} routers")) for n in (2, 20))
    pacing = [(f"pacing by 20 routers costs as much as by 2: {few:,.0f} and {many:,.0f} ms", many <= 1.2 * few)]
    work = f"{table(heads, rows)}{_said(limits)}\n{table(heads2, paced)}{_said(pacing)}"
    return f"**The ledger on Redis**\n\n{reservations}\n{work}"


def _histories(found: Mapping[str, Any]) -> str:
    rows = [
        ["bytes of Redis a user, from a log", f"{found['materialized_bytes']:,.0f}"],
        ["bytes of Redis a user, from the feed", f"{found['fed_bytes']:,.0f}"],
        ["bytes of Redis for the feed's note of an exposure", f"{found['note_bytes_an_exposure']:,.0f}"],
        ["the feed, CPU us an event", f"{found['feed_us_an_event']:,.0f}"],
    ]
    return f"**Histories online**, {found['touchpoints']} touchpoints a user\n\n{table(['', ''], rows)}"


def _start(found: Mapping[str, Any]) -> str:
    rows = [
        [f"{of['bytes'] / 2**30:.2f}", f"{of['seconds']:.1f}", f"{of['cpu_seconds']:.1f}", f"{of['peak_mib']:,.0f}"]
        for of in found["spools"].values()
    ]
    switch, scope = found["switch"], f"{found['experiments']} experiments, {found['campaigns']:,} campaigns"
    names = {"seconds": "read and in force", "kill_by_key_seconds": "off by its key"}
    names |= {"kill_by_file_seconds": "off by its file"}
    killed = [[title, f"{switch[name]:.1f}"] for name, title in names.items()]
    slowest, switched = max(of["seconds"] for of in found["spools"].values()), max(switch[name] for name in names)
    limits = [
        (f"a start takes at most {MOST_SECONDS:g} s", slowest <= MOST_SECONDS),
        (f"experiments are in force, and off, within {MOST_SECONDS:g} s", switched <= MOST_SECONDS),
    ]
    spools = table(["GiB of spool", "seconds", "CPU seconds", "peak MiB"], rows)
    return f"**Starts of a router**\n\n{spools}\n{table([scope, 'seconds'], killed)}{_said(limits)}"


def _traffic(found: Mapping[str, Any]) -> str:
    wrong = {
        "lost": found["decisions_lost"] + found["outcomes_lost"],
        "doubled": found["decisions_doubled"] + found["outcomes_doubled"],
        "paid twice": found["paid_twice"],
        "repeated answers that differ": found["seen"].get("answered otherwise", 0),
        "accounts overspent": found["accounts_overspent"],
    }
    shown = {name: count for name, count in found["seen"].items() if name != "answered otherwise"}
    memory = [[each[at] for at in ("begin", "full", "end") if at in each] for each in found["memory"]]
    hour = TRAFFIC / found["decisions_a_second"] / 60
    each_second = f"{found['decisions_a_second']:,.0f}: {TRAFFIC / 1e6:g}M take {hour:,.0f} minutes"
    cpu = 1e6 * found["cpu_seconds"] / found["decisions"]
    in_lake = f"{found['decisions_in_lake']:,} and {found['outcomes_in_lake']:,}, {found['files']:,} files"
    cells = {
        "decisions": f"{found['decisions']:,}",
        "decisions a second, a process each": each_second,
        "CPU of both routers and their callers, us a decision": f"{cpu:,.0f}",
        **{name: f"{count:,}" for name, count in shown.items()},
        "records in the lake, decisions and outcomes": in_lake,
        **{name: f"{count:,}" for name, count in wrong.items()},
        "costs in the lake, spent in the ledger": f"{found['costs_in_lake']:,.4f}, {found['spent_in_ledger']:,.4f}",
        "memory of each router at the begin, after 100,000 answers, and at the end, MiB": "; ".join(
            ", ".join(f"{size:,.0f}" for size in each) for each in memory
        ),
    }
    rows = list(map(list, cells.items()))
    same = abs(found["difference"]) < 1e-6 * max(1.0, found["spent_in_ledger"])
    limits = [("nothing lost, doubled or overspent", not any(wrong.values()) and same)]
    if all("end" in each for each in found["memory"]):
        flat = all(each["end"] <= 1.1 * each["full"] for each in found["memory"])
        limits.append(("memory flat (10 %) once a router has replaced the 50,000 answers that it remembers", flat))
    played = f"**Two routers, Redis and an S3 server**\n\n{table(['', ''], rows)}{_said(limits)}"
    return f"{played}\n{_records(found['records'])}"


def _records(found: Mapping[str, Any]) -> str:
    kinds = {"decision": "a decision of a model", "outcome": "an outcome", "window": "a window of 20 touchpoints"}
    rows = [[title, *(f"{found[kind][at]:,.0f}" for at in ("spool", "lake"))] for kind, title in kinds.items()]
    return f"**Bytes of a record**\n\n{table(['', 'in the spool', 'in the lake'], rows)}"
