"""Finds the policy with which a challenger must be compared: the one that made the incumbent's newest decision."""

from typing import NamedTuple

from components.component import component


# The serving policy changes although the parameters stay the same.
@component("find the serving incumbent", cached=False)
def served_incumbent(lake: str, registry: str) -> NamedTuple("Served", [("artifact", str), ("policy", str)]):  # type: ignore[valid-type]
    """Return the artifact folder of the policy that made the incumbent's newest decision, or the policy's name.

    A policy has only a name if its decisions come with the requests, from a rule file or from another server. Before
    the first decision, both outputs are empty.
    """
    from pathlib import Path

    from monitoring.verdict.period import deciding_incumbent
    from mtorl.runtime.step import step
    from serving.registry import folder_of

    with step():
        artifact, policy = deciding_incumbent(lake, lambda digest: folder_of(Path(registry), digest))
        beaten = artifact or policy or "the channel frequencies of the log, because no incumbent has decided yet"
        print(f"the challenger has to beat {beaten}")
        return (artifact, policy)
