"""Which of a router's processes this one is: `--workers` starts several, which share a port and a ledger."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Worker:
    """One process of a router.

    Attributes:
        number: From 0.
        count: How many there are.
        listens_at_once: Whether it answers before it can decide, as probes need it of one process at the start. Any
            other would refuse its share of the requests, which those that can decide would have answered.
        metrics: Folder in which the workers leave each other their metrics.
    """

    number: int = 0
    count: int = 1
    listens_at_once: bool = True
    metrics: Path | None = None

    @property
    def alone(self) -> bool:
        """Whether it is the router's only process."""
        return self.count == 1

    def text(self) -> str:
        """All of it, for the command line of the process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From that text."""
        values = json.loads(text)
        return cls(**{**values, "metrics": Path(values["metrics"])})


ALONE = Worker()
"""A router of one process."""
