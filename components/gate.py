"""The decision whether a challenger may be published: by the lower bound of what it is worth more."""

from kfp.dsl import Artifact, Input

from components.component import component


@component("gate", cached=False)
def gate(evaluation: Input[Artifact], min_lift: float) -> str:
    """Return "promote" or "reject".

    One of two fixed words, since kfp.local puts the text into a condition as it is, and a quote in it would skip both
    branches without an error.

    Args:
        evaluation: JSON written by evaluate.
        min_lift: Gain per opportunity that the lower bound of challenger minus incumbent must exceed.
    """
    from mtorl.evaluation.offline import gate_from_file

    decision, reason = gate_from_file(evaluation.path, min_lift)
    print(f"{decision}: {reason}")  # the step's log is where people look why
    return decision
