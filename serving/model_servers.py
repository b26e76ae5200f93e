"""The interface to model servers, each of which serves one version of the model registry.

On a cluster, model servers are InferenceServices; on a laptop, `mtorl serve` runs them. Only two modules change the
version of a server: `serving.deployment` (a new challenger) and `pipelines.experiments.handover` (a promotion or its
rollback).
"""

from typing import ClassVar, NamedTuple, Protocol

from mtorl.runtime.validation import StrictModel, Text


class Mark(StrictModel):
    """A note, stored with a model server, that a promotion has changed the server's version."""

    experiment: Text
    promotion: Text
    """Id of the promotion, as in the experiment's history."""
    before: Text
    """The version that the server served before the promotion."""
    after: Text
    """The version that was promoted."""


class Served(NamedTuple):
    """The version that a model server is configured to serve, and the state of its rollout."""

    version: str
    """The model version in the server's definition, which the server should serve."""
    problem: str
    """Reason why the rollout of `version` is incomplete; empty if every answer of the server comes from this version.
    """
    mark: Mark | None = None
    """The mark of the newest promotion; None if no promotion has changed this server."""
    instead_of: str | None = None
    """The version that is restored if the newest deployment fails; None if a promotion has changed the server since the
    deployment."""


class ModelServers(Protocol):
    """The model servers in a cluster's namespace, or those of `mtorl serve` on a laptop."""

    applied: ClassVar[bool]
    """Whether other programs, such as `kubectl apply`, may set an older version again. If they do after a hand-over,
    the hand-over is not repeated."""

    def name_at(self, url: str | None) -> str | None:
        """Return the name of the server that answers at a URL; None if it is not one of these servers."""

    def for_incumbent(self, url: str | None) -> str | None:
        """Return the URL of a free server for a promoted model, which the incumbent needs if it had no server so far.

        Returns None if there is no such server.

        Args:
            url: URL at which the promoted model answers now.
        """

    def served(self, name: str) -> Served | None:
        """Read a server's version; None if the server does not exist, or has no version.

        Raises OSError if the version can't be read now.
        """

    def serve(self, name: str, version: str, mark: Mark | None = None, instead_of: str | None = None) -> None:
        """Set the version that a server serves, atomically. Call `served` for the server before.

        Without `mark`, the stored mark stays. Raises Conflict if the server was changed after the call of `served`, and
        OSError if the server can't be reached.
        """
