"""The interface of a place that the shipper ships to, and its two errors."""

from __future__ import annotations

from typing import Protocol

from mtorl.log.records import Kind
from serving.decision_log.position import Batch


class Refused(Exception):
    """The sink will never take these records, however often they are sent; it may take others."""


class SinkUnavailable(Exception):
    """The sink takes no records at the moment, for a reason of one word (the metric's), and asks for some seconds."""

    def __init__(self, reason: str, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.retry_after = retry_after


class Sink(Protocol):
    """Takes batches in order; after a fault or a crash the same batch again, or a longer one from the same record on.

    Attributes:
        largest: Most records of a batch.
        linger: Seconds for which records may gather.
        kinds: Of the records that it takes.
    """

    largest: int
    linger: float
    kinds: tuple[Kind, ...]

    async def deliver(self, batch: Batch) -> None:
        """Return when the batch is safe there; raises Refused for a record at fault, or SinkUnavailable."""

    async def close(self) -> None:
        """Let go of connections."""
