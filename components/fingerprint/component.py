"""Computes a fingerprint of the raw log, so that the log is read again only if the fingerprint has changed."""

from typing import NamedTuple

from components.component import component


# Not cached, because the cache key has the log's path but not its content.
@component("fingerprint the log", cached=False)
def fingerprint(source: str, dataset: str, snapshots: str) -> NamedTuple("Seen", [("content", str), ("lost", str)]):  # type: ignore[valid-type]
    """Return a digest of a log's content, its description, and the files that the description names.

    The second output counts how often a snapshot of a cached step was missing. A new count makes the step run again.

    Args:
        snapshots: Folder of the snapshots to which artifacts point; empty for none.
    """
    from features.ingest.log_folder import RawLog, content_of
    from mtorl.runtime.snapshots import lost
    from mtorl.runtime.step import step

    with step():
        return (content_of(RawLog.named(source, dataset)), lost(snapshots))
