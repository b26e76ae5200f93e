"""Where the log goes: K_SINK, as Knative's SinkBinding sets it, or the setting `sink`; without either, nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from serving.decision_log import Spool
from serving.decision_log.http_sink import HttpSink
from serving.decision_log.sink import Sink
from serving.router.ops.settings import RouterSettings


def open_sink(settings: RouterSettings, spool: Spool) -> Sink | None:
    """The sink of a router's spool."""
    source = f"/mtorl/router/{settings.model_name}"
    if url := os.environ.get("K_SINK"):
        return HttpSink(url, source, largest=1)  # a broker of Knative takes events one by one
    if settings.sink is None:
        return None
    if "://" in settings.sink:
        return HttpSink(settings.sink, source)
    from serving.decision_log.parquet_sink import ParquetSink  # DuckDB, which a router with a URL never loads

    return ParquetSink(Path(settings.sink), spool.identity)
