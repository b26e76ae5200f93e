"""Converts a raw or simulated log to a validated touchpoint log, and writes faulty rows to a separate file."""

from typing import NamedTuple

from kfp.dsl import Artifact, Dataset, Output

from components.component import component


@component("read and validate the log", reads_log=True)
def ingest(
    source: str,
    dataset: str,
    bad_rows: str,
    users: int,
    seed: int,
    content: str,
    own_decisions: str,
    decisions: str,
    most_touchpoints: int,
    snapshots: str,
    generation: str,
    code_version: str,
    log: Output[Dataset],
    quarantine: Output[Artifact],
) -> NamedTuple("Ingested", [("rows", int), ("users", int), ("quarantined", int)]):  # type: ignore[valid-type]
    """Convert a raw log, or a simulated one, to a validated touchpoint log.

    Args:
        content: Digest from the step `fingerprint`. It is part of the cache key, and is compared with the log after
            reading.
        own_decisions: Lake that the step `compact` has read. Its decisions are added, unless the log was built with
            them.
        most_touchpoints: Approximate limit of the touchpoints, from log and decisions, that a training reads; 0 for no
            limit. Whole users are chosen by hash. The metadata of the output `log` contain the share of the users that
            is read.
        snapshots: Folder of the snapshots to which artifacts point; if empty, the artifact itself contains the log.
        generation: Second output of the step `fingerprint`, which is part of the cache key.
    """
    import json
    from pathlib import Path

    from features.collect.training_log import add_decisions, bound_touchpoints
    from features.ingest.ingest import BadRowsError
    from features.ingest.log_folder import Built, RawLog, check_unchanged
    from features.ingest.log_folder import ingest as ingest_raw
    from mtorl.log.touchpoints import INGEST_FILE
    from mtorl.log.trainings import READ
    from mtorl.runtime.snapshots import located, snapshot
    from mtorl.runtime.step import step

    with step():
        raw = RawLog.named(source, dataset, bad_rows, users, seed)
        built = Built.at(source)
        with snapshot(log.path, snapshots, "log") as folder:
            try:
                if built:
                    print(built.take_log(raw, decisions, most_touchpoints, folder))
                else:
                    ingest_raw(raw, folder, Path(quarantine.path))
            except BadRowsError as error:
                error.add_note("Correct the rows, or exclude them: set the pipeline's parameter bad_rows to quarantine")
                raise
            check_unchanged(raw, content)
            if decisions and not built:
                print(add_decisions(own_decisions, folder, decisions, most_touchpoints))
            elif not built:
                print(bound_touchpoints(folder, most_touchpoints))
        # Create the file in any case, because kfp.local does not cache a step whose output has no file.
        Path(quarantine.path).touch()
        log.metadata["snapshot"] = str(located(log.path))
        # The figures in the folder also count the decisions that were added to the log.
        noted = json.loads((located(log.path) / INGEST_FILE).read_text())
        log.metadata["fingerprint"] = noted["fingerprint"]
        log.metadata["share"] = noted.get(READ, {"share": 1.0})["share"]
        log.metadata["built"] = built is not None
        return (noted["rows"], noted["users"], noted["quarantined"])
