"""What the policies have decided so far, kept by the hour: the next step adds it to the log that is trained on."""

from components.component import component


# Not cached: a cache knows the path of a decision log and not its content.
@component("collect decisions and outcomes", cached=False)
def collect(lake: str, collected: str, source: str) -> str:
    """Bring the collected decisions up to date; returns a digest of those that a training reads, "" for none.

    Args:
        lake: Folder or URI; empty, or without decisions: nothing is added.
        source: Of the log. A folder of `mtorl data build` may have decisions already: then these are the ones.
    """
    from features.collect import store
    from features.ingest.log_folder import Built
    from mtorl.log.touchpoints import LogError
    from mtorl.runtime.step import step

    with step(LogError):
        if collected and lake and store.holds_decisions(lake):
            print(store.collect(lake, collected))
        built = Built.at(source)
        if built and (decisions := built.decisions()) is not None:
            return decisions
        return store.digest_of(collected) if collected else ""
