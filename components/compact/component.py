"""Compacts the lake: moves arrived records into closed hours, and takes a snapshot for the training."""

from components.component import component


# Not cached, because the cache key has the lake's path but not its content.
@component("compact the lake", cached=False)
def compact(own_decisions: str, source: str) -> str:
    """Compact a lake; returns the snapshot that a training reads, "" for none.

    Args:
        source: Source of the log. If it is a folder of `mtorl data build` with decisions, returns their snapshot.
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
