"""Opens the sink of the decision log: K_SINK, which Knative's SinkBinding sets, or else the setting `sink`."""

from __future__ import annotations

import os
from pathlib import Path

from serving.decision_log import Spool
from serving.decision_log.http_sink import HttpSink
from serving.decision_log.sink import Sink
from serving.router.ops.settings import RouterSettings


def open_sink(settings: RouterSettings, spool: Spool) -> Sink | None:
    """The sink of a router's spool; None: the log stays there."""
    source = f"/mtorl/router/{settings.model_name}"
    if url := os.environ.get("K_SINK"):
        return HttpSink(url, source, largest=1)  # Knative's brokers take events one by one
    if settings.sink is None:
        return None
    if "://" in settings.sink:
        return HttpSink(settings.sink, source)
    from serving.decision_log.parquet_sink import (
        ParquetSink,  # loads DuckDB, which a router that ships to a URL does not need
    )

    return ParquetSink(Path(settings.sink), spool.identity)
