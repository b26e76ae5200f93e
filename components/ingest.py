"""A raw log, or the simulator's, becomes a validated touchpoint log; faulty rows go to a side file."""

from typing import NamedTuple

from kfp.dsl import Dataset, Output

from components.component import component


# Not cached: a cache knows the path of a log and not its content, and would bring back no quarantine file.
@component("read and validate the log", cached=False)
def ingest(
    source: str,
    dataset: str,
    quarantine: str,
    on_bad_rows: str,
    users: int,
    seed: int,
    log: Output[Dataset],
) -> NamedTuple("Ingested", [("rows", int), ("users", int), ("quarantined", int)]):  # type: ignore[valid-type]
    """Turn a raw log, or the simulator when `source` is empty, into a validated touchpoint log.

    Args:
        source: Path of the raw log; empty for the built-in simulator.
        dataset: Name of a built-in data set description, or the path of a YAML.
        quarantine: Path of the side file for rows that fail validation.
        on_bad_rows: "fail" or "quarantine".
        users: Users to simulate (0 for 6,000), or the most to keep of a real log (0 keeps all).
        seed: Seed of the simulator and of the sample of users.
        log: Folder with touchpoints.parquet and dataset.yaml.
    """
    from pathlib import Path

    from features.ingest.log_folder import RawLog
    from features.ingest.log_folder import ingest as ingest_raw

    report = ingest_raw(RawLog(source, dataset, on_bad_rows, users, seed), Path(log.path), Path(quarantine))
    log.metadata["fingerprint"] = report.fingerprint
    return (report.rows, report.users, report.quarantined)
