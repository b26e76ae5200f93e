"""Which policy a challenger has to beat: the one with which the incumbent decided last."""

from components.component import component


# Not cached: what serves changes without any of the parameters.
@component("see which incumbent serves", cached=False)
def served_incumbent(decision_log: str, registry: str) -> str:
    """Return the artifact folder of the model that took the incumbent's newest decision; "" if none has taken one.

    Args:
        decision_log: Folder with decisions.parquet, or with one for each router; empty: nothing serves.
        registry: Where published models are.
    """
    from pathlib import Path

    from monitoring.period import PeriodError, deciding_incumbent
    from mtorl.runtime.step import step
    from serving.registry import folder_of

    with step(PeriodError):
        return deciding_incumbent(decision_log, lambda digest: folder_of(Path(registry), digest))
