"""A validated log becomes a Feast repository and the point-in-time correct windows that training reads."""

from kfp.dsl import Dataset, Input, Output

from components.component import component


# Not cached: it writes the feature repository, which no cache entry would bring back.
@component("Feast features and causal windows", cached=False)
def build_features(log: Input[Dataset], feature_repo: str, code_version: str, windows: Output[Dataset]) -> int:
    """Build the Feast repository and the window of every touchpoint; returns the number of windows.

    Args:
        log: Folder written by ingest.
        feature_repo: Folder of the feature repository (registry, sources, online store).
        code_version: Part of the cache key: the library's version.
        windows: Window store: manifest.json, steps/ and dataset.yaml.
    """
    from pathlib import Path

    from features.offline.store import build_training_data

    return build_training_data(Path(log.path), Path(feature_repo), Path(windows.path))
