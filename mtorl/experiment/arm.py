"""Defines an arm of an experiment, which is one policy and the server that runs it.

    arm.url                                  # URL for decision requests; None if the router itself runs the policy
    arm_key("spring", "challenger")          # "spring/challenger": unique among the arms of all experiments

The constants OUTSIDE, ALL_ARMS and OVERRIDE may appear in place of an arm's name, so no arm can have one of these
names.
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
# In place of an arm's name: users who are not in the experiment. The incumbent serves them.
OUTSIDE = "outside"
# In place of an arm's name: the account of a whole budget. It limits the spending of all arms together.
ALL_ARMS = "*"
# Name of the account of users whose arm is set in the file. With their own account, they do not spend an arm's money.
OVERRIDE = "override"
_RESERVED = {
    ALL_ARMS: "stands for all arms",
    OUTSIDE: "stands for users who are not in the experiment",
    OVERRIDE: "is the account of users in `overrides`",
}
Moment = Annotated[AwareDatetime, BeforeValidator(moment)]

Baseline = Annotated[Literal["baseline"], Tag("baseline")]
Policy = Annotated[
    Baseline | Annotated[Rule, Tag("rows")],
    Discriminator(lambda policy: "baseline" if isinstance(policy, str) else "rows"),
]
"""A policy that runs inside the router, without a server."""


class Arm(StrictModel):
    """One policy and its endpoint."""

    name: Text
    """incumbent, or the name of a challenger."""
    weight: float = Field(ge=0)
    """Share of the units at the last stage. The weights of all arms add up to 1."""
    endpoint: Text | None = None
    """Base URL of the server, or the full URL for POST requests. For a local Unix socket, write its path in place of
    the host, with %2F for each slash: http+unix://%2Fsockets%2Fchallenger.sock."""
    policy: Policy | None = None
    """A policy without a server, instead of an endpoint. baseline: follow the request's own baseline. rows: a list of
    rows, of which the first matching one decides."""
    model_digest: Text | None = None
    """Required first characters of the digest of the model at the endpoint; by default, any model may answer."""
    model_name: Text | None = None
    """Name of the model, if the endpoint's answers do not contain it."""
    model_version: Text | None = None
    """Version of the model, if the endpoint's answers do not contain it."""
    explore: Exploration | None = None
    """Share of the arm's decisions that are explored (randomised); by default, none. The kill switch stops
    exploration."""

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
        except ValueError:  # raised by `parts.port` if the port is not a number from 0 to 65535
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
        """Return the SHA-256 of the policy's rows, or None if the policy is not a list of rows (`rule.py`)."""
        return None if self.policy is None or self.policy == "baseline" else digest(self.policy)

    @property
    def url(self) -> str | None:
        """Return the URL to which decision requests are sent, or None if the arm has no server.

        If the endpoint has no path, the path /v1/models/NAME:predict is appended, with the arm's name.
        """
        if self.endpoint is None:
            return None
        whole = urlsplit(self.endpoint).path.strip("/")
        return self.endpoint if whole else f"{self.endpoint.rstrip('/')}/v1/models/{self.name}:predict"


def arm_key(experiment: str, arm: str) -> str:
    """Return an arm's name with the experiment's name as its prefix, such as spring/challenger.

    OUTSIDE gets no prefix, because users outside an experiment do not belong to it.
    """
    return arm if arm == OUTSIDE else f"{experiment}/{arm}"
