"""Names of streams (measures and columns watched over periods), and the streams that mean harm.

stream_of("outcomes", "", "gain_per_decision")      # outcomes/gain_per_decision
labels_of("performance/spring/challenger/auc")      # ("performance", "spring", "challenger", "auc")
"""

from typing import Literal, NamedTuple

from mtorl.experiment.arm import INCUMBENT
from mtorl.log.dataset import DatasetSpec, counted_gain

COLUMNS = "context"  # the group of context columns and static columns
GROUPS = (COLUMNS, "journeys", "decisions", "outcomes", "performance")
OF_OUTCOMES = ("outcomes", "performance")  # groups about outcomes of decisions
LAST_HOURS = "last_hours"  # the check for columns without recent values, which is no group of streams


class Labels(NamedTuple):
    """The parts of a stream's name."""

    group: str
    experiment: str  # empty for the incumbent, which belongs to all experiments, and if `arm` is empty
    arm: str  # its name in the experiment; empty: all arms
    measure: str  # or a column


def stream_of(group: str, arm: str, measure: str) -> str:
    """The name of a stream; `arm` is empty for all arms, or for example spring/challenger."""
    return "/".join(part for part in (group, arm, measure) if part)


def column_stream(column: str) -> str:
    """The name of a column's stream."""
    return stream_of(COLUMNS, "", column)


def labels_of(stream: str) -> Labels:
    """The parts of a stream's name; names of columns, channels and experiments may contain a slash."""
    group, _, rest = stream.partition("/")
    if group == "decisions":
        arm, _, measure = rest.partition("/")
        return Labels(group, "", arm, measure)
    if group == "performance":
        full, _, measure = rest.rpartition("/")
        experiment, _, arm = full.rpartition("/")
        return Labels(group, experiment, arm, measure)
    return Labels(group, "", "", rest)


HARM: dict[str, Literal["falls", "rises"]] = {
    stream_of("outcomes", "", "gain_per_decision"): "falls",
    stream_of("outcomes", "", "gain_per_cost"): "falls",
    stream_of("outcomes", "", "cost_per_exposure"): "rises",
    stream_of("decisions", INCUMBENT, "expected_gain"): "falls",
}
"""Streams whose fall, or rise, costs gain or money; a change in the other direction raises no alarm. All other streams
raise tickets, in both directions."""


def loss_units(spec: DatasetSpec) -> dict[str, str]:
    """The unit of the loss of each stream that means harm: gain for streams that fall, money for costs that rise."""
    gain = counted_gain(spec)
    return {stream: gain.unit if way == "falls" else gain.units.money for stream, way in HARM.items()}
