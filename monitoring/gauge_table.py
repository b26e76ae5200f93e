"""Builds Prometheus gauges from a table of gauges and the current samples."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily

# A sample: name of the gauge, values of its labels, and the value. A value of None is not exported.
Sample = tuple[str, Sequence[str], float | None]


def gauges(
    prefix: str, table: Mapping[str, tuple[str, Sequence[str]]], samples: Iterable[Sample]
) -> Iterator[GaugeMetricFamily]:
    """Build all gauges of a table, including gauges without samples.

    Args:
        prefix: Beginning of each gauge's exported name.
        table: Help text and label names of each gauge.
    """
    made = {name: GaugeMetricFamily(prefix + name, help_, labels=labels) for name, (help_, labels) in table.items()}
    for name, labels, value in samples:
        if value is not None:
            made[name].add_metric(labels, value)
    return iter(made.values())
