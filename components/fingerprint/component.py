"""Fingerprints the raw log: the step that reads it is done again if, and only if, this has changed."""

from typing import NamedTuple

from components.component import component


# Not cached: a cache knows the path of a log and not its content.
@component("see what the log holds", cached=False)
def fingerprint(source: str, dataset: str, snapshots: str) -> NamedTuple("Seen", [("content", str), ("lost", str)]):  # type: ignore[valid-type]
    """Return a digest of the content of a log, of its description and of the files that the description names.

    The second output counts how often a snapshot was gone to which a cached step pointed: it is then written anew.

    Args:
        snapshots: Folder of the snapshots to which artifacts point; empty for none.
    """
    from features.ingest.log_folder import RawLog, content_of
    from mtorl.runtime.snapshots import lost
    from mtorl.runtime.step import step

    with step():
        return (content_of(RawLog.named(source, dataset)), lost(snapshots))
