"""Names the streams, which are the time series of measures and columns, and lists the streams that may show harm.

    stream_of("outcomes", "", "gain_per_decision")      # outcomes/gain_per_decision
    labels_of("performance/spring/challenger/auc")      # ("performance", "spring", "challenger", "auc")

A name consists of a group, an arm if the measure is about a single arm, and the name of the measure.
"""

from typing import Literal, NamedTuple

from mtorl.experiment.arm import INCUMBENT
from mtorl.log.dataset import DatasetSpec, counted_gain

# Group of all context columns and static columns.
COLUMNS = "context"
GROUPS = (COLUMNS, "journeys", "decisions", "outcomes", "performance")
# Groups that need the outcomes of decisions.
OF_OUTCOMES = ("outcomes", "performance")
# Check for columns that have just lost their values; not a group of streams.
LAST_HOURS = "last_hours"


class Labels(NamedTuple):
    """The parts of a stream's name.

    Attributes:
        experiment: Experiment of the arm; "" for the incumbent and for all arms together.
        arm: Arm of the measure; "" for all arms together.
        measure: Name of the measure or column.
    """

    group: str
    experiment: str
    arm: str
    measure: str


def stream_of(group: str, arm: str, measure: str) -> str:
    """Build the name of a stream; `arm` is for example "spring/challenger", or "" for all arms."""
    return "/".join(part for part in (group, arm, measure) if part)


def column_stream(column: str) -> str:
    """Build the name of a column's stream."""
    return stream_of(COLUMNS, "", column)


def labels_of(stream: str) -> Labels:
    """Split the name of a stream. Names of columns, channels and experiments may contain a slash."""
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
"""Streams for which a fall, or a rise, means that gain or money is lost. A change in the other direction raises no
alarm. For all other streams, a change in either direction raises a ticket."""


def loss_units(spec: DatasetSpec) -> dict[str, str]:
    """Return the unit of each harmful stream's loss: a unit of gain, or a currency."""
    gain = counted_gain(spec)
    return {stream: gain.unit if way == "falls" else gain.units.money for stream, way in HARM.items()}
