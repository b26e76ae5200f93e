"""Defines the fields of the records in the decision log.

    record: DecisionRecord = {...}                    # a plain dict; mypy checks that every field is there
    json_schema("decision")                           # JSON schema, for validation by other systems
    sql_columns("decision")                           # the same fields as DuckDB columns

The router writes each record as a JSON line; features and monitoring read them. A decision record has all fields of the
router's response, and what a replay needs to recompute it. Layer, experiment, salt, shares and user determine the arm
(`mtorl.experiment.assignment`), unless the experiment file names the user's arm (`override`). Experiment, salt, user,
campaign and request (or decision) determine the random draw. The draw and the probabilities, in the order of the
candidates, determine the channel. If the router falls back to the default action after the draw, the draw is recorded.

Adding, removing or renaming a field requires a new schema version (docs/architecture.md). A reader that finds a record
of another version stops with an error that names both versions.
"""

import hashlib
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic needs this TypedDict before Python 3.12

from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError

Kind = Literal["decision", "outcome", "shadow", "window"]
KINDS: tuple[Kind, ...] = get_args(Kind)
VERSION: Literal[1] = 1
"""The schema version of all kinds of records."""

CANCEL = "cancel"
"""Kind of an outcome that reports that an ad was not shown. All other kinds are numeric outcomes of the data set."""

MODEL_NAME = "coalesce(model_digest, nullif(concat_ws(' ', model_name, model_version), ''))"
"""SQL for the identity of the model that made a decision: its digest or, without a digest, its name and version. Null
if the model reported none of these, or did not answer."""
UNNAMED = "unnamed"
"""Reports show this name for a model that reported neither digest nor name nor version."""

ExplorationScope = Literal["channel", "exposure", "both"]

Stage = Literal["off", "shadow", "1%", "5%", "25%", "50%"]

FallbackReason = Literal[
    "features",
    "model_timeout",
    "model_error",
    "ledger",  # the ledger failed, or is not set up yet
    "no_account",  # the experiment has no budget for this campaign and channel
    "no_baseline",  # the arm uses the request's baseline, but the request has none
    "repeated",  # another decision on the same request already has the reservation
    "no_time",  # the deadline passed before all services were called
    "log",  # the record was not stored durably before the deadline
    "internal",  # a bug in the router
]

Name = Annotated[str, Field(min_length=1)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Probability = Annotated[float, Field(gt=0, le=1)]
PossibleProbability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


@with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Baseline(TypedDict):
    """The decision that the caller's own logic would make for this opportunity, as sent with the request."""

    channel: Name
    expose: bool
    propensity: Probability | None
    """Probability with which the caller's logic makes this choice; 1 if it is deterministic, null if unknown."""


@with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Explored(TypedDict):
    """What an arm's policy chose before exploration could replace the choice by a random one."""

    share: Probability
    """Share of the arm's decisions that are explored (randomised)."""
    scope: ExplorationScope
    explored: bool
    """Whether this decision was explored."""
    channel: Name
    expose: bool
    channel_probs: dict[str, PossibleProbability]
    exposure_probs: dict[str, PossibleProbability]


class V2Answer(TypedDict):
    """The fields of the router's response in the v2 protocol, each of which is one output tensor."""

    decision_id: Annotated[Name, Field(description="Unique id. A second record with the id withdraws the decision.")]
    arm: Annotated[Name, Field(description="The user's assigned arm, even if the decision is a fallback.")]
    channel: Name
    expose: Annotated[bool, Field(description="Whether the ad may be shown, and money spent.")]
    propensity: Annotated[
        Probability | None,
        Field(
            description="Probability of the channel. For a fallback, the propensity of the request's baseline, or 1 "
            "without a baseline. null: unknown, as in the fields below."
        ),
    ]
    expected_reward: float | None
    expected_cost: Amount | None
    budget_exhausted: Annotated[
        bool, Field(description="true: the policy wanted to expose, but the budget had no money left.")
    ]
    fallback_reason: Annotated[
        FallbackReason | None,
        Field(
            description="Why the router took the default action, which is the request's baseline if it has one; null: "
            "no fallback."
        ),
    ]


class V1Answer(V2Answer):
    """The fields of the router's response in the v1 protocol, except the field about the model."""

    request_id: Annotated[
        str | None, Field(description="The caller's id of the request, unique within a user and campaign.")
    ]
    experiment: Name
    reservation_id: str | None


class History(TypedDict):
    """The fields of a decision record that describe the user's history. All are null if no window was built."""

    static: Annotated[dict[str, str | float | None] | None, Field(description="Static columns of the user, as stored.")]
    history_length: Annotated[int | None, Field(ge=0, description="Number of touchpoints in the window.")]
    last_channel: Annotated[Name | None, Field(description="Channel of the newest touchpoint; null: there is none.")]
    last_time: Annotated[Time | None, Field(description="Time of the newest touchpoint, UTC; null: there is none.")]


@with_config(ConfigDict(title="decision", extra="forbid", use_attribute_docstrings=True))
class DecisionRecord(V1Answer, History):
    """A decision of the router, with everything that an evaluation needs."""

    schema_version: Literal[1]
    unit_hash: Hash
    """Pseudonym of the user, for joins that do not need the user id."""
    user_id: Name
    layer: Name
    salt: Name
    experiment_version: Hash
    """Hash of the fields of the experiment file that affect decisions. Fields about plans, such as `planned_end`, are
    not included."""
    shares: dict[str, PossibleProbability]
    """Share of the experiment's users in each arm."""
    assignment_probability: Probability
    """Probability that the user is assigned to this arm. 1 if the user was not randomised: outside of any experiment,
    held out, or assigned by `overrides`."""
    override: bool
    """Whether the experiment file assigned the user's arm by `overrides`. Comparisons of arms leave out such a
    decision."""
    stage: Stage
    """Stage of the experiment; off: the kill switch was on."""
    model_name: str | None
    """Name of the model that answered, even if the router did not use the answer. Null if unknown; the same holds for
    `model_version` and `model_digest`."""
    model_version: str | None
    model_digest: str | None
    feature_hash: Hash | None
    """Hash of the window (the user's history) that the model got as input; null: no window was built."""
    features_found: bool
    """Whether the feature store has a history of the user."""
    campaign_id: Name
    context: dict[str, str | float | None]
    """Context columns from the request."""
    request_time: Time
    """Time of the opportunity, UTC. It is the request's `timestamp`, or the time when the request arrived if it has
    none."""
    request_hash: Hash | None
    """Hash of the request's content, to detect that a request id was used for two different requests; null: the request
    has no id."""
    candidates: Annotated[list[Name], Field(min_length=1)]
    """The channels that the policy could choose from."""
    costs: dict[str, Amount]
    """Highest possible cost of an exposure by channel, in currency units, for the channels whose cost the request
    contained."""
    baseline: Baseline | None
    """The decision of the caller's own logic, if the request contained it."""
    exploration: Explored | None
    """The policy's choice before exploration; null: the arm does not explore. The fields below describe the decision
    after exploration."""
    drawn_channel: Name | None
    """The channel that was drawn at random from `channel_probs`, even if the router then took the default action; null:
    no channel was drawn."""
    channel_probs: dict[str, PossibleProbability]
    """Probability of drawing each candidate, in the order in which the draw uses them. Candidates whose probability is
    unknown are left out."""
    exposure_probs: dict[str, PossibleProbability]
    """Probability, by channel, that the policy wants to show the ad if this channel is drawn; empty: unknown."""
    expected_rewards: dict[str, float]
    """Expected reward of an exposure, by channel. Channels whose expected reward is unknown are left out."""
    expected_costs: dict[str, Amount]
    """Expected cost of an exposure in currency units, by channel. Channels whose expected cost is unknown are left out.
    """
    price: Amount | None
    """Gain that the model required for each currency unit of cost; null: the model did not report it."""
    prices: dict[str, Amount]
    """The same price by channel. Channels whose price is unknown are left out."""
    state_distance: Amount | None
    """Distance of the user's state from the states in training, relative to their root mean square; null: the model did
    not report it."""
    reserved: Amount
    """Amount that the budget ledger reserved for the exposure, in currency units."""
    refused_until: Time | None
    """If the budget was exhausted: the latest end (UTC) of the budget periods that may have no money left. Null: no
    period ends."""
    withdrawn: bool
    """true: this record withdraws the decision. No ad was shown, even if another record of the decision has an
    exposure."""
    latency_seconds: Amount
    """Seconds from the arrival of the request until this record was written."""
    event_time: Time
    """Time of the decision, UTC."""


@with_config(ConfigDict(title="outcome", extra="forbid", use_attribute_docstrings=True))
class OutcomeRecord(TypedDict):
    """An outcome of a decision, such as a click or a cost, which a caller has reported to the router."""

    schema_version: Literal[1]
    event_id: Name
    """The caller's id of this event. Several events of one decision with the same id count once."""
    decision_id: Name
    kind: Name
    """cost, click, conversion, revenue, another numeric outcome of the data set, or cancel (the ad was not shown)."""
    value: float
    """Value of the outcome. Only revenue and other outcomes of the data set may be negative."""
    event_time: Time
    """Time of the event, UTC."""
    received_time: Time
    """Time when the router received the report, UTC."""


@with_config(ConfigDict(title="shadow", extra="forbid", use_attribute_docstrings=True))
class ShadowRecord(TypedDict):
    """A decision of a challenger at the stage `shadow`. Users never saw it, and no money was reserved for it.

    The features, the request and the random draw are the same as in the incumbent's decision with this `decision_id`.
    """

    schema_version: Literal[1]
    shadow_id: Name
    """Unique id of this record, one for each decision and challenger."""
    decision_id: Name
    """Id of the incumbent's decision on the same request."""
    experiment: Name
    arm: Name
    """Name of the challenger."""
    fault: FallbackReason | None
    """Reason why the challenger gave no decision; null: it gave a decision."""
    channel: Name | None
    """The channel that the challenger chose; null: it gave no decision. The fields below have the same meaning as in a
    decision record."""
    expose: bool | None
    """Whether the challenger would have shown the ad, if the budget had allowed it."""
    propensity: Probability | None
    exploration: Explored | None
    channel_probs: dict[str, PossibleProbability]
    exposure_probs: dict[str, PossibleProbability]
    expected_reward: float | None
    expected_cost: Amount | None
    expected_rewards: dict[str, float]
    expected_costs: dict[str, Amount]
    price: Amount | None
    prices: dict[str, Amount]
    model_name: str | None
    model_version: str | None
    model_digest: str | None
    event_time: Time
    """Time when the challenger answered, UTC."""


@with_config(ConfigDict(title="window", extra="forbid", use_attribute_docstrings=True))
class WindowRecord(TypedDict):
    """The window of a decision. Only a sample of the users has such records, because windows are large."""

    schema_version: Literal[1]
    decision_id: Name
    unit_hash: Hash
    """Pseudonym of the user. It is needed to leave out the windows of forgotten users."""
    window: dict[str, Any]
    """The window that the router sent to the model."""
    event_time: Time
    """Time of the decision, UTC."""


_RECORDS: dict[Kind, Any] = {
    "decision": DecisionRecord,
    "outcome": OutcomeRecord,
    "shadow": ShadowRecord,
    "window": WindowRecord,
}
_SQL_TYPES = {str: "VARCHAR", float: "DOUBLE", int: "BIGINT", bool: "BOOLEAN"}

ID_FIELD: dict[Kind, str] = {
    "decision": "decision_id",
    "outcome": "event_id",
    "shadow": "shadow_id",
    "window": "decision_id",
}

# The order of records with the same id. Readers use the first record and ignore the others.
# Usually these records are copies, with two exceptions. If the router withdraws a decision, it writes a second record,
# which replaces the first one. If an event was reported to two routers, the report with the earlier event time counts,
# then the lower value, then the one that was received first.
_FIRST_COUNTS: dict[Kind, str] = {
    "decision": "withdrawn DESC, event_time",
    "outcome": "event_time, value, received_time",
    "shadow": "event_time",
    "window": "event_time",
}


@cache
def json_schema(kind: Kind) -> dict[str, Any]:
    """Return the JSON schema (2020-12) of one kind of records."""
    schema = TypeAdapter(_RECORDS[kind]).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"{kind}.v{VERSION}.json", **schema}


@cache
def sql_columns(kind: Kind) -> dict[str, str]:
    """Return the columns of one kind of records with their DuckDB types."""
    columns = {name: _SQL_TYPES.get(type_, "VARCHAR") for name, type_ in plain_types(_RECORDS[kind]).items()}
    times = {name for name in columns if name.endswith(("_time", "_until"))}
    return columns | dict.fromkeys(times, "TIMESTAMPTZ")


def rank_among_copies(kind: Kind) -> str:
    """Return SQL that ranks the copies of each record (same id and decision). The copy with rank 1 counts."""
    same = ", ".join(dict.fromkeys(("decision_id", ID_FIELD[kind])))
    return f"row_number() OVER (PARTITION BY {same} ORDER BY {_FIRST_COUNTS[kind]})"


def this_version(kind: Kind) -> str:
    """Return SQL that is true for records of the current schema version, and fails for others."""
    text = f"'a {kind} record of schema version ' || schema_version || '; this release reads {VERSION}'"
    return f"CASE WHEN schema_version <> {VERSION} THEN error({text}) ELSE true END"


def segment_sql(spec: DatasetSpec, name: str, record: str) -> str:
    """Return DuckDB SQL for the value of a categorical column in a record, which is text or null.

    Args:
        record: Alias of the record's table in the query.

    Raises:
        LogError: the data set has no such categorical column.
    """
    known = [column.name for column in (*spec.context, *spec.static) if column.kind == "categorical"]
    if name not in known:
        raise LogError(f"by: {name!r} is no categorical column; the data set has {', '.join(known) or 'none'}")
    of_user = name in [column.name for column in spec.static]
    return f"json_extract_string({record}.{'static' if of_user else 'context'}, '$.{name}')"


def unit_hash(user_id: str) -> str:
    """Return the pseudonym of a user, as in the records."""
    return hashlib.blake2b(user_id.encode(), digest_size=8).hexdigest()


def is_sampled(unit: str, share: float) -> bool:
    """Return whether a user's windows are logged. If the share grows, all sampled users stay sampled."""
    return int(unit[8:], 16) < share * 2**32


def plain_types(record: Any) -> dict[str, type]:
    """Return the plain Python type of each field of a record or response, such as str for `str | None`."""
    return {name: _plain(hint) for name, hint in get_type_hints(record, include_extras=False).items()}


def _plain(hint: Any) -> type:
    if get_origin(hint) in (Union, UnionType):
        return _plain(next(part for part in get_args(hint) if part is not NoneType))
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0])
    plain: type = get_origin(hint) or hint
    return plain
