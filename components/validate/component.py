"""Checks that a log has all that the newest training read: a cut-off export must not become a model."""

from kfp.dsl import Dataset, Input

from components.component import component


# Not cached: each training changes what this step compares with.
@component("compare the log with the one before", cached=False)
def validate(log: Input[Dataset], history: str, shrunk: str) -> str:
    """Refuse a log that lacks what an earlier one had; returns what has changed, in words.

    Args:
        shrunk: "fail" refuses a log that has lost touchpoints since the newest training; "accept" trains on it.
    """
    import json
    from pathlib import Path

    from mtorl.log.touchpoints import INGEST_FILE, LogError
    from mtorl.log.trainings import LogFacts, newest
    from mtorl.runtime.snapshots import located
    from mtorl.runtime.step import step

    with step():
        if shrunk not in ("fail", "accept"):
            raise LogError(f"shrunk: {shrunk!r} is not one of fail, accept")
        before = newest(Path(history)) if history else None
        if before is None:
            return "the first training here"
        seen = LogFacts.of(located(log.path))
        lost = seen.lost_since(before.log)
        if lost and shrunk == "fail":
            faulty = json.loads((located(log.path) / INGEST_FILE).read_text())["quarantined"]
            error = LogError(f"{lost}; {faulty:,} rows of the log were faulty, and left out" if faulty else lost)
            error.add_note("Export it again; or, if they are gone for good, set the parameter shrunk to accept")
            raise error
        more = sum(seen.days.values()) - sum(before.log.days.values())
        said = [lost or f"{more:+,} touchpoints since the newest training"]
        if new := seen.new_channels(before.log):
            said.append(f"new channels, which no earlier model knows: {', '.join(new)} (docs/data.md, A new channel)")
        print("; ".join(said))
        return "; ".join(said)
