"""The decision log: every decision with its propensity, and its outcomes, on disk before the answer goes out.

    spool = Spool("spool")
    spool.write("decision", [record], seconds=1.0)         # returns when the record is durable
    spool.submit("outcome", outcome).result()
    Shipper(spool, LakeSink(lake, spool.identity), "uploaded.json").start()

The spool is a write-ahead log: a shipper uploads it into the lake (`mtorl/log/lake.py`), another one may send it on as
CloudEvents, and what all have is deleted. The fields of a record are defined in `mtorl/log/records.py`. In reading
order: `segments.py` (files that survive a crash, how far they are shipped), `spool.py` (group commit, quota, deletion),
`shipper.py` (retries, poison, a sink that is away), `lake_sink.py`, `http_sink.py` (CloudEvents), `forget.py` (users).
"""

from mtorl.log.records import Kind
from serving.decision_log.spool import Spool, SpoolError, SpoolUnavailable

__all__ = ["Kind", "Spool", "SpoolError", "SpoolUnavailable"]
