"""What the policies have decided so far, kept by the hour: the next step adds it to the log that is trained on."""

from components.component import component


# Not cached: a cache knows the path of a decision log and not its content.
@component("collect decisions and outcomes", cached=False)
def collect(decision_log: str, collected: str) -> str:
    """Bring the collected decisions up to date, and return a digest of them; "" if there are none.

    Args:
        decision_log: Folder with decisions.parquet and outcomes.parquet, or with one for each router; empty, or without
            decisions: nothing is added.
        collected: Folder in which they are kept; empty for none.
    """
    from features.collect import store
    from mtorl.log.touchpoints import LogError
    from mtorl.runtime.step import step

    with step(LogError):
        if not collected:
            return ""
        if decision_log and store.holds_decisions(decision_log):
            print(store.collect(decision_log, collected))
        return store.digest_of(collected)
