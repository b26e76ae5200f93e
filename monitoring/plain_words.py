"""Numbers and tokens as people read them. Anything absent is an em dash, never an error."""

from __future__ import annotations

import math
import re
from typing import Any

ABSENT = "—"

VERDICTS = {
    "ship": ("Ship the challenger", "good"),
    "stop": ("Keep the incumbent", "alarm"),
    "inconclusive": ("Not decided yet", "open"),
    "srm": ("No verdict: the arms are not filled as configured", "alarm"),
    "guardrail": ("Keep the incumbent: a guardrail is breached", "alarm"),
}
GATES = {
    "promote": ("The gate let the challenger into the experiment", "good"),
    "reject": ("The gate refused the challenger", "alarm"),
}
METRICS = {
    "action_accuracy": "Action accuracy",
    "action_auc": "Action AUC",
    "action_f1": "Action F1",
    "action_logloss": "Action log loss",
    "action_ece": "Action calibration error",
    "reward_auc": "Reward AUC",
    "reward_logloss": "Reward log loss",
    "reward_ece": "Reward calibration error",
}
PROBLEMS = {
    "drift": "drifted",
    "missing_values": "values missing",
    "no_values": "no values",
    "no_column": "no column",
    "no_score": "no score",
}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def count(value: Any) -> str:
    """A whole number with thousands separated."""
    number = _number(value)
    return ABSENT if number is None else f"{number:,.0f}"


def fixed(value: Any, places: int = 4) -> str:
    """A number with fixed decimal places, so that a column of them lines up."""
    number = _number(value)
    return ABSENT if number is None else f"{number:,.{places}f}".replace("-", "−")


def signed(value: Any, places: int = 4) -> str:
    """A difference: always with its sign."""
    number = _number(value)
    return ABSENT if number is None else f"{number:+,.{places}f}".replace("-", "−")


def share(value: Any, places: int = 1) -> str:
    """A share as percent."""
    number = _number(value)
    return ABSENT if number is None else f"{number:.{places}%}".replace("-", "−")


def p_value(value: Any) -> str:
    """A p-value; very small ones only as a bound."""
    number = _number(value)
    if number is None:
        return ABSENT
    return "< 0.0001" if number < 1e-4 else f"{number:.4f}"


def interval(value: Any, places: int = 4, plus: bool = False) -> str:
    """An interval in brackets."""
    if not isinstance(value, list | tuple) or len(value) != 2 or any(_number(edge) is None for edge in value):
        return ABSENT
    show = signed if plus else fixed
    return f"[{show(value[0], places)}, {show(value[1], places)}]"


def duration(seconds: Any) -> str:
    """A time span in the two units that matter."""
    number = _number(seconds)
    if number is None:
        return ABSENT
    if number < 60:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def sentence(text: Any) -> str:
    """A reason as a sentence: capital, full stop, true minus signs."""
    words = re.sub(r"(?<![\w.])-(?=\d)", "−", str(text)).strip().rstrip(".")
    return f"{words[:1].upper()}{words[1:]}."


def metric(name: str) -> str:
    """A metric's name in words."""
    return METRICS.get(name, name.replace("_", " ").capitalize())


def per_decision(gain: Any) -> str:
    """Unit of the primary metric."""
    words = {"click": "clicks", "conversion": "conversions", "revenue": "revenue"}
    return f"{words.get(str(gain), 'gain')} per decision"


FILTERS = {
    "count": count,
    "fixed": fixed,
    "signed": signed,
    "share": share,
    "p_value": p_value,
    "interval": interval,
    "duration": duration,
    "metric": metric,
    "sentence": sentence,
}
