"""The interface to the servers of registry versions: InferenceServices on a cluster, `mtorl serve` on a laptop.

Only two modules change the version of a server: `serving.deployment` (a new challenger) and
`pipelines.experiments.handover` (a promotion or its rollback).
"""

from typing import ClassVar, NamedTuple, Protocol

from mtorl.runtime.validation import StrictModel, Text


class Mark(StrictModel):
    """The mark of a promotion on a server, with the versions before and after it."""

    experiment: Text
    promotion: Text
    """Id of the promotion in the experiment's history."""
    before: Text
    """The version that the server served before the promotion."""
    after: Text
    """The version that was promoted."""


class Served(NamedTuple):
    """The version that a model server is set to serve, and the state of its rollout."""

    version: str
    """The version in the server's definition."""
    problem: str
    """Why the rollout of `version` is incomplete; empty if the server answers with that version only."""
    mark: Mark | None = None
    """The mark of the newest promotion; None if there was none."""
    instead_of: str | None = None
    """The version to return to if the newest deployment fails; None if a promotion has changed the server since."""


class ModelServers(Protocol):
    """The model servers of a cluster's namespace, or of a laptop."""

    applied: ClassVar[bool]
    """Whether others (`kubectl apply`) may set an older version. If so, a hand-over that was undone is not repeated."""

    def name_at(self, url: str | None) -> str | None:
        """The name of the server that answers at a URL; None if it is not one of these servers."""

    def for_incumbent(self, url: str | None) -> str | None:
        """A server's URL for an incumbent that had none, given the URL of its promoted model; None if there is none."""

    def served(self, name: str) -> Served | None:
        """The version of a server; None if it does not exist or names no version. OSError: it can't be read now."""

    def serve(self, name: str, version: str, mark: Mark | None = None, instead_of: str | None = None) -> None:
        """Set the version of a server atomically. `served` must have been called before.

        Without `mark`, the present mark stays. Raises Conflict if the server has changed since `served` read it, and
        OSError if the server can't be reached.
        """
