"""The servers that serve a version of the registry: InferenceServices on a cluster, `mtorl serve` on a laptop.

Only `serving.deployment` (a new challenger) and `pipelines.experiments.handover` (a promotion, a rollback) change what
they serve.
"""

from typing import NamedTuple, Protocol

from mtorl.runtime.validation import StrictModel, Text


class Mark(StrictModel):
    """What a promotion has changed on a server."""

    experiment: Text
    promotion: Text
    """Which promotion of the experiment's history."""
    before: Text
    """Version that the server served until then."""
    after: Text
    """Version that won."""


class Served(NamedTuple):
    """What a model server serves."""

    version: str
    """That it is meant to serve."""
    problem: str
    """Why it does not serve that alone, yet; empty: it does."""
    mark: Mark | None = None
    """Of the newest promotion; None: there was none."""
    instead_of: str | None = None
    """The version that decided before the newest deployment, which goes back to it; None: a promotion came after it."""


class ModelServers(Protocol):
    """The model servers of one place."""

    def name_at(self, url: str | None) -> str | None:
        """The name of the server that answers at a URL; None: it is none of these."""

    def for_incumbent(self, url: str | None) -> str | None:
        """Where the model at a URL may answer as an incumbent that had no server; None: nowhere else."""

    def served(self, name: str) -> Served | None:
        """What a server serves; None: there is no such server, or it names no version. OSError: no answer now."""

    def serve(self, name: str, version: str, mark: Mark | None = None, instead_of: str | None = None) -> None:
        """Let a server, whose `served` was read before, serve a version, at once or not at all.

        Without a mark, the present one stays. Conflict: the server was changed since it was read. OSError: it can't be
        reached now.
        """
