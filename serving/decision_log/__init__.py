"""The decision log: every decision with its propensity, and what became of it, on disk before the answer goes out.

    spool = Spool("spool")
    await spool.append("decision", record)      # returns when the record is durable
    await spool.append("outcome", outcome)      # "accepted", "late", "dangling" or "duplicate"
    export_parquet("spool", "decision_log")     # serving.decision_log.export: decisions.parquet, outcomes.parquet

From there it leaves the router's disk: `Shipper(spool, sink, ...)` sends it on as CloudEvents, or into Parquet files.

The fields of a record are defined in `mtorl/log/records.py`. In reading order: `segments.py` (files that survive a
crash), `index.py` (which outcome belongs to what), `spool.py`
(group commit, quota); `position.py` (how far it is shipped), `tail.py` (what comes next), `sink.py` (what a sink is),
`events.py` and `http_sink.py` (CloudEvents), `parquet_sink.py` (Parquet), `shipper.py` (retries, poison),
`retention.py` (what is deleted); `export.py` with `exported.py` (how far); `forget.py` (users leave a spool that no
router holds).
"""

from mtorl.log.records import Kind
from serving.decision_log.spool import Spool, SpoolError, SpoolUnavailable, Status

__all__ = ["Kind", "Spool", "SpoolError", "SpoolUnavailable", "Status"]
