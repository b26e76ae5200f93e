"""Fingerprints the raw log: the step that reads it runs again if, and only if, the fingerprint has changed."""

from typing import NamedTuple

from components.component import component


# Not cached: a cache knows the path of a log and not its content.
@component("see what the log holds", cached=False)
def fingerprint(source: str, dataset: str, snapshots: str) -> NamedTuple("Seen", [("content", str), ("lost", str)]):  # type: ignore[valid-type]
    """Return a digest of a log's content, its description, and the files that the description names.

    The second output counts how often the snapshot of a cached step was missing: that step then runs again.

    Args:
        snapshots: Folder of the snapshots to which artifacts point; empty for none.
    """
    from features.ingest.log_folder import RawLog, content_of
    from mtorl.runtime.snapshots import lost
    from mtorl.runtime.step import step

    with step():
        return (content_of(RawLog.named(source, dataset)), lost(snapshots))
