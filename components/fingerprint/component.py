"""Computes a fingerprint of the raw log, so that later steps read the log again only if it has changed."""

from typing import NamedTuple

from components.component import component


# The cache key would contain the path of the log but not its content.
@component("fingerprint the log", cached=False)
def fingerprint(source: str, dataset: str, snapshots: str) -> NamedTuple(  # type: ignore[valid-type]
    "Seen", [("content", str), ("generation", str)]
):
    """Return a digest of a log's content, of its description, and of the files that the description names.

    The second output changes if the volume of the snapshots is new, or if a snapshot was missing. Steps that write
    snapshots then run again instead of using their cached results.

    Args:
        snapshots: Folder of the snapshots to which artifacts point; empty if there are none.
    """
    from features.ingest.log_folder import RawLog, content_of
    from mtorl.runtime.snapshots import generation
    from mtorl.runtime.step import step

    with step():
        return (content_of(RawLog.named(source, dataset)), generation(snapshots))
