"""Computes a fingerprint of the raw log, so that later steps read the log again only if it has changed."""

from typing import NamedTuple

from components.component import component


# The cache key would contain the path of the log but not its content.
@component("fingerprint the log", cached=False)
def fingerprint(source: str, dataset: str, snapshots: str) -> NamedTuple("Seen", [("content", str), ("lost", str)]):  # type: ignore[valid-type]
    """Return a digest of a log's content, of its description, and of the files that the description names.

    The second output counts how often a snapshot, which cached steps had written, was missing. If the count changes,
    these steps run again instead of using their cached results.

    Args:
        snapshots: Folder of the snapshots to which artifacts point; empty if there are none.
    """
    from features.ingest.log_folder import RawLog, content_of
    from mtorl.runtime.snapshots import lost
    from mtorl.runtime.step import step

    with step():
        return (content_of(RawLog.named(source, dataset)), lost(snapshots))
