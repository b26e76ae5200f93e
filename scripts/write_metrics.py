"""Writes docs/metrics.md, which lists the Prometheus metrics of router, monitor and operator.

Run this script after changing a metric.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "metrics.md"
HEAD = """# Prometheus metrics

    curl -s localhost:8080/metrics | grep ^mtorl_

A user or campaign is never a label. See also [alerts](cluster.md#alerts) and [dashboards](monitoring.md#dashboards).

*Written by `scripts/write_metrics.py`; do not edit.*
"""
Table = Mapping[str, tuple[str, Sequence[str]]]


def page() -> str:
    """Build the text of the page, with one table for each process."""
    from monitoring.experiments import gauges
    from monitoring.watch import exporter

    return HEAD + "".join(
        [
            *_section("The router", _router()),
            *_section("Experiments (operator, and `mtorl experiment run`)", _rows("mtorl_experiment_", gauges._GAUGES)),
            *_section("The monitor's exporter", _rows("mtorl_monitor_", exporter._OF_STATE)),
            *_section("Pipelines (the same exporter)", _rows("mtorl_pipeline_", exporter._OF_RUNS)),
        ]
    )


def _router() -> Iterator[str]:
    from prometheus_client.metrics import MetricWrapperBase

    from serving.router.ops import metrics

    for one in vars(metrics).values():
        if isinstance(one, MetricWrapperBase):
            name = one._name + ("_total" if one._type == "counter" else "")
            yield _row(name, one._documentation, one._labelnames)


def _rows(prefix: str, table: Table) -> Iterator[str]:
    return (_row(prefix + name, text, labels) for name, (text, labels) in table.items())


def _row(name: str, text: str, labels: Sequence[str]) -> str:
    return f"| `{name}` | {', '.join(f'`{label}`' for label in labels)} | {text} |\n"


def _section(title: str, rows: Iterator[str]) -> list[str]:
    return [f"\n## {title}\n\n| metric | labels | meaning |\n|---|---|---|\n", *rows]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
