"""Defines the hyper-parameters that a search may change, and the values that each may have.

`SPACE` leaves out these fields of `TrainConfig`:

    lam         It makes the action head predict the log less well on purpose, so a search would choose 0.
    epochs      Early stopping already finds the best epoch of each trial.
    seed        Seeds differ only by noise.
    averaging, clip, heads, patience
                Thirty trials are hardly enough for the eight settings in `SPACE`.
    convolutions, attention
                The ablations in docs/results.md measure their effect.
"""

from dataclasses import dataclass
from typing import Literal

from mtorl.network.training import TrainConfig

Scale = Literal["linear", "log", "choice"]


@dataclass(frozen=True)
class Parameter:
    """A field of `TrainConfig`, with the values that a search may try."""

    name: str
    scale: Scale  # "linear" or "log": from `low` to `high`, inclusive; "choice": one of `choices`
    meaning: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[int, ...] = ()

    @property
    def default(self) -> int | float:
        """The default value of the field in `TrainConfig`."""
        value: int | float = getattr(TrainConfig(), self.name)
        return value

    @property
    def whole(self) -> bool:
        """Whether the setting takes whole numbers only."""
        return isinstance(self.default, int)

    @property
    def range(self) -> str:
        """The values that a search may try, as text for the table."""
        if self.scale == "choice":
            return ", ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}"


SPACE = (
    Parameter("lr", "log", "initial learning rate", 5e-4, 2e-2),
    Parameter("weight_decay", "log", "AdamW's weight decay", 1e-4, 0.3),
    Parameter("batch_size", "choice", "windows per step", choices=(64, 128, 256)),
    Parameter("hidden", "choice", "width of the network", choices=(32, 64, 128)),
    Parameter("levels", "linear", "number of convolutions", 1, 4),
    Parameter("dropout", "linear", "share of dropped units", 0.0, 0.5),
    Parameter("mu", "log", "weight of the reward loss", 0.5, 8.0),
    Parameter("nu", "log", "weight of the cost loss", 0.1, 1.0),
)


def defaults() -> dict[str, int | float]:
    """Return the default value of each hyper-parameter in `SPACE`."""
    return {parameter.name: parameter.default for parameter in SPACE}


def table() -> str:
    """Return `SPACE` as a Markdown table for docs/training.md."""
    lines = ["| setting | meaning | values | scale | default |", "|---|---|---|---|---|"]
    lines += [f"| `{p.name}` | {p.meaning} | {p.range} | {p.scale} | {p.default:g} |" for p in SPACE]
    return "\n".join(lines) + "\n"
