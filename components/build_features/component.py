"""Converts a validated log to training windows, which contain only what was known at each decision.

It also writes the feature definitions for the feature store.
"""

from kfp.dsl import Artifact, Dataset, Input, Output

from components.component import component


@component("Feast features and causal windows", reads_log=True)
def build_features(
    log: Input[Dataset],
    source: str,
    snapshots: str,
    generation: str,
    code_version: str,
    windows: Output[Dataset],
    definitions: Output[Artifact],
) -> int:
    """Build the window of every touchpoint, or copy windows that were already built; returns the number of windows.

    Args:
        source: Source of the log, as for `ingest`. A folder of `mtorl data build` already contains windows.
        snapshots: Folder of the snapshots to which artifacts point; if empty, the artifact itself contains the windows.
        generation: Second output of the step `fingerprint`, which is part of the cache key.
        definitions: Feast repository without its sources, which are as large as the log and can be rebuilt from it.
    """
    from pathlib import Path

    from features.ingest.log_folder import Built
    from features.offline.store import build_training_data, without_sources
    from mtorl.runtime.snapshots import located, snapshot
    from mtorl.runtime.step import step

    with step():
        built = Built.at(source, known=bool(log.metadata.get("built")))
        with snapshot(windows.path, snapshots, "windows") as folder:
            rows = build_training_data(located(log.path), Path(definitions.path), folder, built)
        windows.metadata["snapshot"] = str(located(windows.path))
        without_sources(Path(definitions.path))
        return rows
