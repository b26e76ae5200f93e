"""Compares a log with the log of the newest training, so that no model is trained on an incomplete export."""

from kfp.dsl import Dataset, Input

from components.component import component


# Each training changes the log with which the next log is compared.
@component("compare the log with the previous one", cached=False)
def validate(log: Input[Dataset], history: str, shrunk: str) -> str:
    """Compare a log with the log of the newest training, and return a summary of the difference.

    Raises a `LogError` if touchpoints are missing and `shrunk` is "fail".

    Args:
        shrunk: What to do if the log has lost touchpoints since the newest training: "fail" stops the run, and "accept"
            trains on the log.
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
            return "no earlier training to compare with"
        seen = LogFacts.of(located(log.path))
        lost = seen.lost_since(before.log)
        if lost and shrunk == "fail":
            faulty = json.loads((located(log.path) / INGEST_FILE).read_text())["quarantined"]
            error = LogError(f"{lost}; {faulty:,} faulty rows of the log were left out" if faulty else lost)
            error.add_note("Export the log again. If the loss is permanent, set the parameter shrunk to accept")
            raise error
        more = sum(seen.days.values()) - sum(before.log.days.values())
        summary = [lost or f"{more:+,} touchpoints since the newest training"]
        if new := seen.new_channels(before.log):
            summary.append(f"new channels, unknown to earlier models: {', '.join(new)} (docs/data.md, A new channel)")
        print("; ".join(summary))
        return "; ".join(summary)
