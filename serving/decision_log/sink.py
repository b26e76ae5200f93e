"""What the shipper expects of a place that it ships to, and the two ways in which that can fail."""

from __future__ import annotations

from typing import Protocol

from serving.decision_log.tail import Batch


class Refused(Exception):
    """The sink will never take these records, however often they are sent; it may take others."""


class SinkUnavailable(Exception):
    """The sink takes no records at the moment.

    Args:
        reason: One word, for the metric.
        detail: What happened.
        retry_after: Seconds that the sink asks for.
    """

    def __init__(self, reason: str, detail: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.retry_after = retry_after


class Sink(Protocol):
    """Takes batches in order.

    After a fault or a crash it gets the same batch again, or a longer one that starts at the same record.

    Attributes:
        largest: Records that it takes at once.
        linger: Seconds for which records may gather.
    """

    largest: int
    linger: float

    async def deliver(self, batch: Batch) -> None:
        """Return when the batch is safe there.

        Raises:
            Refused: at least one of the records is at fault.
            SinkUnavailable: the sink is.
        """

    async def close(self) -> None:
        """Let go of connections."""
