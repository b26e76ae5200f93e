"""The servers that serve a version of the registry: InferenceServices on a cluster, `mtorl serve` on a laptop.

Only `serving.deployment` (a new challenger) and `pipelines.experiments.handover` (a promotion, a rollback) change what
they serve.
"""

from typing import ClassVar, NamedTuple, Protocol

from mtorl.runtime.validation import StrictModel, Text


class Mark(StrictModel):
    """Mark of a promotion on a server: the version before and after."""

    experiment: Text
    promotion: Text
    """Id of the promotion in the experiment's history."""
    before: Text
    """Version that the server served until then."""
    after: Text
    """Version that won."""


class Served(NamedTuple):
    """The version that a model server serves."""

    version: str
    """The version of its definition."""
    problem: str
    """Reason why it does not serve that version alone yet; empty: it does."""
    mark: Mark | None = None
    """Of the newest promotion; None: there was none."""
    instead_of: str | None = None
    """The version that decided before the newest deployment, which goes back to it; None: a promotion came after it."""


class ModelServers(Protocol):
    """The model servers of one place."""

    applied: ClassVar[bool]
    """Whether something else may apply an older version: a change that was undone is then not made again."""

    def name_at(self, url: str | None) -> str | None:
        """The name of the server that answers at a URL; None: it is none of these."""

    def for_incumbent(self, url: str | None) -> str | None:
        """URL at which the model of a URL may answer as an incumbent that had no server; None: nowhere else."""

    def served(self, name: str) -> Served | None:
        """The version of a server; None: there is no such server, or it names no version. OSError: no answer now."""

    def serve(self, name: str, version: str, mark: Mark | None = None, instead_of: str | None = None) -> None:
        """Let a server, whose `served` was read before, serve a version, at once or not at all.

        Without a mark, the present one stays. Conflict: the server was changed since it was read. OSError: it can't be
        reached now.
        """
