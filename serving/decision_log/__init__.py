"""The decision log: writes every decision with its propensity, and every outcome, to disk before the router answers.

    spool = Spool("spool")
    spool.write("decision", [record], seconds=1.0)         # returns when the record is durable
    spool.submit("outcome", outcome).result()
    Shipper(spool, LakeSink(lake, spool.identity), "uploaded.json").start()

The spool is a write-ahead log on the router's disk. One shipper uploads its records into the lake
(`mtorl/log/lake.py`), and another may send them as CloudEvents. A record is deleted after all shippers have shipped it.
`mtorl/log/records.py` defines the fields. In reading order: `segments.py` (files that survive a crash, shipped
positions), `spool.py` (group commit, quota, deletion), `shipper.py` (retries, refused records, outages),
`lake_sink.py`, `http_sink.py` (CloudEvents), `forget.py` (removal of users).
"""

from mtorl.log.records import Kind
from serving.decision_log.spool import Spool, SpoolError, SpoolUnavailable

__all__ = ["Kind", "Spool", "SpoolError", "SpoolUnavailable"]
