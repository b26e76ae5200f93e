"""How a team may go about learning from its own decisions: as this project ships it, and more carelessly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """How a team goes about it.

    Attributes:
        name: For the table.
        paced: Whether the price follows the spend.
        explore: Share of decisions that explore.
        pooled: Whether a model learns from all nights and the first log, or from the newest night's exposures alone.
        opportunities: Whether prices and values are taken at decisions, or at exposures.
    """

    name: str
    paced: bool = True
    explore: float = 0.05
    pooled: bool = True
    opportunities: bool = True


WAYS = (
    Way("as shipped"),
    Way("without exploration", explore=0.0),
    Way("exposures alone", explore=0.0, opportunities=False),
    Way("newest exposures alone, unpaced", paced=False, explore=0.0, pooled=False, opportunities=False),
)
