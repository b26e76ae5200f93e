"""An arm of an experiment: one policy and where it answers, and the names that stand in place of an arm.

arm.url                                  # its decisions' endpoint; None: it has none
arm_key("spring", "challenger")          # its name among those of all experiments
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AwareDatetime, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from mtorl.experiment import messages
from mtorl.experiment.rule import Rule, digest
from mtorl.log.times import moment
from mtorl.policy.exploration import Exploration
from mtorl.runtime.http import UNIX
from mtorl.runtime.validation import StrictModel, Text

INCUMBENT = "incumbent"
OUTSIDE = "outside"  # in place of an arm: the user is not in the experiment, and gets the incumbent
ALL_ARMS = "*"  # whose account is the experiment's own: every arm draws on it
OVERRIDE = "override"  # whose account pays for the users whose arm the file names: they must not spend an arm's money
_RESERVED = {
    ALL_ARMS: "stands for all arms",
    OUTSIDE: "stands for users who are not in the experiment",
    OVERRIDE: "is the account of users whose arm the file names",
}
Moment = Annotated[AwareDatetime, BeforeValidator(moment)]

Baseline = Annotated[Literal["baseline"], Tag("baseline")]
Policy = Annotated[
    Baseline | Annotated[Rule, Tag("rows")],
    Discriminator(lambda policy: "baseline" if isinstance(policy, str) else "rows"),
]
"""A policy that needs no server."""


class Arm(StrictModel):
    """One policy and where it answers."""

    name: Text
    """incumbent, or that of a challenger."""
    weight: float = Field(ge=0)
    """Share of the units at the last stage; the weights of all arms add up to 1."""
    endpoint: Text | None = None
    """Base URL of the server, or the whole URL to post to. Of a server on a Unix socket of this machine or pod, the
    socket's path takes the host's place, with %2F for each slash: http+unix://%2Fsockets%2Fchallenger.sock."""
    policy: Policy | None = None
    """Instead of an endpoint: what needs no server. baseline, which is what the request itself says; or rows, of which
    the first one that fits decides."""
    model_digest: Text | None = None
    """Beginning of the digest of the model that must answer there; by default, any model may."""
    model_name: Text | None = None
    """Its name, likewise if it does not say so itself."""
    model_version: Text | None = None
    """Of the model that answers there, if it does not say so itself."""
    explore: Exploration | None = None
    """A share of its decisions that is left to chance; by default, none. The kill switch stops it."""

    @field_validator("name")
    @classmethod
    def _is_one_arm(cls, name: str) -> str:
        means = _RESERVED.get(name, "has a slash, which ends an experiment's name" if "/" in name else "")
        if means:
            raise ValueError(messages.ARM_NAME(name=name, means=means))
        return name

    @field_validator("endpoint")
    @classmethod
    def _is_a_url(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme == UNIX:
            if not unquote(parts.netloc).startswith("/"):
                raise ValueError(messages.SOCKET_PATH(endpoint=endpoint))
            return endpoint
        try:
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # the port is no number up to 65535
            right = False
        if not right:
            raise ValueError(messages.NOT_A_URL(endpoint=endpoint))
        return endpoint

    @model_validator(mode="after")
    def _answers_in_one_way(self) -> Arm:
        if (self.endpoint is None) == (self.policy is None):
            raise ValueError(messages.ENDPOINT_OR_POLICY())
        models = {name: getattr(self, name) for name in ("model_digest", "model_name", "model_version")}
        if self.policy is not None and (named := [name for name, value in models.items() if value is not None]):
            raise ValueError(messages.NO_MODEL(fields=", ".join(named)))
        return self

    @cached_property
    def rule_digest(self) -> str | None:
        """Identity of the policy if it is rows."""
        return None if self.policy is None or self.policy == "baseline" else digest(self.policy)

    @property
    def url(self) -> str | None:
        """Endpoint of its decisions; None if it has none."""
        if self.endpoint is None:
            return None
        whole = urlsplit(self.endpoint).path.strip("/")
        return self.endpoint if whole else f"{self.endpoint.rstrip('/')}/v1/models/{self.name}:predict"


def arm_key(experiment: str, arm: str) -> str:
    """An arm's name among the arms of all experiments: spring/challenger; OUTSIDE stays."""
    return arm if arm == OUTSIDE else f"{experiment}/{arm}"
