"""Puts a log on an empty volume: a copy of a given one, or a simulated one."""

from kfp.dsl import Artifact, Output

from components.component import component


# Not cached: it writes a log to the volume unless there is one.
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
    """Put a log on the volume unless there is one; returns its path.

    Args:
        volume: Folder at which the data volume is mounted.
        log: Path of the raw log, or its address in an object store; "": the volume's own.
        simulate: Whether to write a log of simulated users, up to yesterday, if there is none.
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
