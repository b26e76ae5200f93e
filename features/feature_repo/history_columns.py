"""The columns of a user's stored window: lists of the last touchpoints, oldest first."""

from __future__ import annotations

from typing import Literal

from mtorl.log.dataset import OUTCOMES, DatasetSpec
from mtorl.window.window import history_columns

OUTCOME_COLUMNS = frozenset(f"hist_{name}" for name in OUTCOMES)


def history_types(spec: DatasetSpec) -> dict[str, Literal["float64", "string"]]:
    """The list columns, and the type of their elements; the times come first.

    To what the causal window reads this adds `hist_timestamp`, microseconds since 1970 (Feast's own list of timestamps
    keeps whole seconds only).
    """
    texts = {"hist_channel", *(f"hist_{c.name}" for c in spec.context if c.kind == "categorical")}
    names = dict.fromkeys(("hist_timestamp", *history_columns(spec)))
    return {name: "string" if name in texts else "float64" for name in names}
