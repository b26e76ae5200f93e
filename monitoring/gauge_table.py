"""Builds Prometheus gauges from a table of their names and from samples in any order."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily

Sample = tuple[str, Sequence[str], float | None]  # gauge, values of its labels, value; None: no series


def gauges(
    prefix: str, table: Mapping[str, tuple[str, Sequence[str]]], samples: Iterable[Sample]
) -> Iterator[GaugeMetricFamily]:
    """Yields every gauge of the table, also without samples; `table` maps a name to help text and labels."""
    made = {name: GaugeMetricFamily(prefix + name, help_, labels=labels) for name, (help_, labels) in table.items()}
    for name, labels, value in samples:
        if value is not None:
            made[name].add_metric(labels, value)
    return iter(made.values())
