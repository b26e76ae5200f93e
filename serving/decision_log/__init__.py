"""The decision log: every decision with its propensity, and its outcomes, on disk before the answer goes out.

    spool = Spool("spool")
    spool.write("decision", [record], seconds=1.0)         # returns when the record is durable
    await spool.append_all("outcome", [outcome])           # "accepted", "late", "dangling" or "duplicate" for each
    export_parquet("spool", "decision_log")                # serving.decision_log.export

`Shipper(spool, sink, ...)` sends the log on as CloudEvents, or into Parquet files. The fields of a record are defined
in `mtorl/log/records.py`. In reading order: `segments.py` (files that survive a crash), `index.py` (which outcome
belongs to which decision), `spool.py` (group commit, quota); `position.py` (how far it is shipped, the next batch),
`sink.py` (the interface), `http_sink.py` (CloudEvents), `parquet_sink.py`, `shipper.py` (retries,
poison), `retention.py` (deletion); `export.py` with `exported.py` (how far); `forget.py` (users).
"""

from mtorl.log.records import Kind
from serving.decision_log.spool import Spool, SpoolError, SpoolUnavailable, Status

__all__ = ["Kind", "Spool", "SpoolError", "SpoolUnavailable", "Status"]
