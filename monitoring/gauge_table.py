"""Builds Prometheus gauges from two inputs: a table that describes every gauge, and the current samples."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily

# One sample: name of the gauge, values of its labels, and the value. A sample whose value is None is not exported.
Sample = tuple[str, Sequence[str], float | None]


def gauges(
    prefix: str, table: Mapping[str, tuple[str, Sequence[str]]], samples: Iterable[Sample]
) -> Iterator[GaugeMetricFamily]:
    """Build all gauges of a table, including gauges without samples.

    Args:
        prefix: Text in front of each gauge's name.
        table: Help text and names of the labels, by name of the gauge.
        samples: Samples of the gauges in the table, in any order.
    """
    made = {name: GaugeMetricFamily(prefix + name, help_, labels=labels) for name, (help_, labels) in table.items()}
    for name, labels, value in samples:
        if value is not None:
            made[name].add_metric(labels, value)
    return iter(made.values())
