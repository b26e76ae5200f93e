"""Compacts the lake: merges the files that routers have uploaded into a few files for each hour.

Then it takes a snapshot of the lake for the training.
"""

from components.component import component


# The cache key would contain the path of the lake but not its content.
@component("compact the lake", cached=False)
def compact(own_decisions: str, source: str) -> str:
    """Compact a lake; returns the snapshot that a training reads, or "" if there is no lake.

    Args:
        source: Source of the log. A folder of `mtorl data build` may already contain decisions; then their snapshot is
            returned.
    """
    from datetime import UTC, datetime

    from features.collect.compact import compact as compact_lake
    from features.ingest.log_folder import Built
    from mtorl.log.lake import Lake
    from mtorl.runtime.step import step

    with step():
        built = Built.at(source)
        known = built.decisions() if built else None
        if not own_decisions:
            return known or ""
        lake = Lake.open(own_decisions)
        print(compact_lake(lake, datetime.now(UTC)))
        return lake.snapshot() if known is None else known
