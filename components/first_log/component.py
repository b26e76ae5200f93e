"""Writes the first log to an empty volume: a copy of a given log, or a simulated log."""

from kfp.dsl import Artifact, Output

from components.component import component


@component("put the log on the volume", cached=False, reads_log=True)
def first_log(
    volume: str,
    log: str,
    dataset: str,
    simulate: bool,
    bad_rows: str,
    users: int,
    seed: int,
    registry: str,
    quarantine: Output[Artifact],
) -> str:
    """Write a log to the volume, unless the volume already has a log; returns the path of the log.

    Args:
        volume: Folder at which the data volume is mounted.
        log: Path of the raw log, or its address in an object store; "" uses the log that is already on the volume.
        simulate: Whether to simulate a log if the volume has none. The simulated log ends yesterday.
    """
    from pathlib import Path

    from features.ingest.log_folder import RawLog
    from features.ingest.log_folder import first_log as run
    from mtorl.log.dataset import DatasetSpec
    from mtorl.runtime.step import step
    from serving.registry import check_first

    with step():
        check_first(Path(registry), DatasetSpec.load(dataset))
        Path(quarantine.path).touch()
        raw = RawLog(log, dataset, bad_rows, users, seed)
        return str(run(Path(volume), raw, simulate, Path(quarantine.path)))
