"""The decision log: stores every decision with its propensity, and its outcomes, on disk before the answer is sent.

    spool = Spool("spool")
    spool.write("decision", [record], seconds=1.0)         # returns when the record is durable
    spool.submit("outcome", outcome).result()
    Shipper(spool, LakeSink(lake, spool.identity), "uploaded.json").start()

The spool is a write-ahead log. A shipper uploads it into the lake (`mtorl/log/lake.py`), and another may send it as
CloudEvents. Records that all shippers have shipped are deleted. `mtorl/log/records.py` defines their fields. In reading
order: `segments.py` (files that survive a crash, shipped positions), `spool.py` (group commit, quota, deletion),
`shipper.py` (retries, refused records, outages), `lake_sink.py`, `http_sink.py` (CloudEvents), `forget.py` (users).
"""

from mtorl.log.records import Kind
from serving.decision_log.spool import Spool, SpoolError, SpoolUnavailable

__all__ = ["Kind", "Spool", "SpoolError", "SpoolUnavailable"]
