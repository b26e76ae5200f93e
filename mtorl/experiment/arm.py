"""Defines an arm of an experiment, which is one policy and the server that runs it."""

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
# Reserved name for users outside the experiment, who get the incumbent's policy.
OUTSIDE = "outside"
# Reserved name for the account that limits the spending of all arms together.
ALL_ARMS = "*"
# Reserved name of the account that pays for users in `overrides`, so that they do not spend the money of an arm.
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
    """One of the policies that an experiment compares, with the server or the rule that makes its decisions."""

    name: Text
    """Name of the arm: incumbent, or any name for a challenger."""
    weight: float = Field(ge=0)
    """Share of the experiment's users that get this arm at the last stage. The weights of all arms add up to 1."""
    endpoint: Text | None = None
    """Base URL of the server, or the full URL for POST requests. For a local Unix socket, write its path in place of
    the host, with %2F for each slash: http+unix://%2Fsockets%2Fchallenger.sock."""
    policy: Policy | None = None
    """A policy that the router computes itself, instead of an endpoint. baseline: use the decision that the request
    contains as its baseline. rows: a list of rows; the first row that matches the request decides."""
    model_digest: Text | None = None
    """First characters that the digest of the endpoint's model must have. An answer from another model counts as a
    fault. By default, every model is accepted."""
    model_name: Text | None = None
    """Name of the model, if the endpoint's answers do not contain it."""
    model_version: Text | None = None
    """Version of the model, if the endpoint's answers do not contain it."""
    explore: Exploration | None = None
    """Exploration: the share of the arm's decisions that are randomised, and what is randomised. By default, none. The
    kill switch also stops exploration."""

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
        except ValueError:  # raised by `parts.port` for an invalid port
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
        """Return the SHA-256 of a policy with rows, or None for any other policy."""
        return None if self.policy is None or self.policy == "baseline" else digest(self.policy)

    @property
    def url(self) -> str | None:
        """Return the URL for decision requests, or None if the arm has no server.

        If the endpoint has no path, the path /v1/models/NAME:predict is appended.
        """
        if self.endpoint is None:
            return None
        whole = urlsplit(self.endpoint).path.strip("/")
        return self.endpoint if whole else f"{self.endpoint.rstrip('/')}/v1/models/{self.name}:predict"


def arm_key(experiment: str, arm: str) -> str:
    """Return an arm's name with the experiment's name as its prefix, such as spring/challenger."""
    return arm if arm == OUTSIDE else f"{experiment}/{arm}"
