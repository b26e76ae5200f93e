"""Touchpoint logs in: read (or simulate), validate, quarantine; then Feast features and causal windows."""

from typing import NamedTuple

from kfp.dsl import Dataset, Input, Output

from components._base import component


@component
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
    from features.ingest.log_folder import ingest as run

    result = run(source, dataset, log.path, quarantine, on_bad_rows, users, seed)
    log.metadata["fingerprint"] = result.fingerprint
    return (result.rows, result.users, result.quarantined)


@component
def build_features(log: Input[Dataset], feature_repo: str, code_version: str, windows: Output[Dataset]) -> int:
    """Build the Feast repository and the point-in-time correct windows of every touchpoint.

    Args:
        log: Folder written by ingest.
        feature_repo: Folder of the feature repository (registry, sources, online store).
        code_version: Part of the cache key: the library's version.
        windows: Window store: manifest.json, steps/ and dataset.yaml.
    """
    from features.pipeline import build

    return build(log.path, feature_repo, windows.path)
