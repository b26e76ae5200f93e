"""Names of streams, the measures and columns that are watched period after period, and which of them mean harm.

stream_of("outcomes", "", "gain_per_decision")      # outcomes/gain_per_decision
labels_of("performance/spring/challenger/auc")      # ("performance", "spring", "challenger", "auc")
"""

from typing import Literal, NamedTuple

from mtorl.experiment.arm import INCUMBENT
from mtorl.log.dataset import DatasetSpec, counted_gain

COLUMNS = "context"  # the group of columns: of the context, and static ones
GROUPS = (COLUMNS, "journeys", "decisions", "outcomes", "performance")
OF_OUTCOMES = ("outcomes", "performance")  # groups about outcomes of decisions
LAST_HOURS = "last_hours"  # no group of streams: the check for columns without recent values


class Labels(NamedTuple):
    """The subject of a stream."""

    group: str
    experiment: str  # empty for the incumbent, which is that of all experiments, and if arm is empty
    arm: str  # its name in the experiment; empty: all of them
    measure: str  # or a column


def stream_of(group: str, arm: str, measure: str) -> str:
    """The name of a stream; an empty arm: of all arms. An arm of an experiment: spring/challenger."""
    return "/".join(part for part in (group, arm, measure) if part)


def column_stream(column: str) -> str:
    """The name of a column's stream."""
    return stream_of(COLUMNS, "", column)


def labels_of(stream: str) -> Labels:
    """The labels of a stream; columns, channels and experiments may have a slash in their names."""
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
"""Streams whose fall, or rise, costs gain or money; the other direction is good news, and raises no alarm. All other
streams raise tickets, in both directions."""


def loss_units(spec: DatasetSpec) -> dict[str, str]:
    """The unit of the loss of each stream that stands for harm: what falls is gain, what rises is cost."""
    gain = counted_gain(spec)
    return {stream: gain.unit if way == "falls" else gain.units.money for stream, way in HARM.items()}
