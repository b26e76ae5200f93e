"""The interface to model servers, each of which serves one version of the model registry."""

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
    """The version that a model server should serve, and the state of its rollout."""

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
    """The model servers in a cluster's namespace, or on a laptop."""

    applied: ClassVar[bool]
    """Whether other programs, such as `kubectl apply`, may set an older version again. If they do after a hand-over,
    the hand-over is not repeated."""

    def name_at(self, url: str | None) -> str | None:
        """Return the name of the server that answers at a URL, if any."""

    def for_incumbent(self, url: str | None) -> str | None:
        """Return the URL of a free server that can take over the incumbent's promoted model, if any.

        Args:
            url: URL at which the promoted model answers now.
        """

    def served(self, name: str) -> Served | None:
        """Read a server's version, if any; raises OSError if it can't be read now."""

    def serve(self, name: str, version: str, mark: Mark | None = None, instead_of: str | None = None) -> None:
        """Set the version that a server serves, atomically. Call `served` for the same server first.

        Without `mark`, the server's stored mark stays. Raises Conflict if the server has changed since that call, and
        OSError if the server can't be reached.
        """
