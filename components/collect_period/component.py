"""What was decided in a period, collected anew: after an outage, or from an export that was repaired."""

from components.component import component


# Not cached: it writes to the folder that outlives all runs.
@component("collect a period anew", cached=False, reads_log=True)
def collect_period(lake: str, collected: str, source: str, since: str, until: str) -> str:
    """Collect the hours of a period from all files of the decision log; returns a digest as the step `collect` does.

    Nothing outside of the period changes, and nothing in it that is there already.

    Args:
        source: As of the step `collect`.
        since: Start of the period (ISO time), inclusive; the hour that it lies in counts whole.
        until: End of the period (ISO time), exclusive; likewise.
    """
    from features.collect import store
    from features.collect.store import Hours
    from features.ingest.log_folder import Built
    from mtorl.log.touchpoints import LogError
    from mtorl.runtime.step import step

    with step(LogError):
        print(store.collect_again(lake, collected, Hours.named(since, until)))
        built = Built.at(source)
        decisions = built.decisions() if built else None
        return store.digest_of(collected) if decisions is None else decisions
