"""The records of the decision log: their fields, defined once.

    record: DecisionRecord = {...}                    # a plain dict; mypy checks that every field is there
    json_schema("decision")                           # what other systems validate against
    sql_columns("decision")                           # the same fields as DuckDB columns

The router writes one JSON line for each; features and monitoring read them. A decision record extends the two forms of
the router's answer, and holds what a replay needs: the arm follows from layer, experiment, salt, shares and user
(`mtorl.experiment.assignment`), unless the file named it (`override`), the draw from experiment, salt, user, campaign
and request (or decision), the channel from the draw and the probabilities, in the order of the candidates. What the
policy drew stays in the record when the default action is taken after the draw.

A field that is added, removed or renamed makes a new version of the schema (docs/architecture.md). A reader that meets
a record of another version stops with an error that names both.
"""

import hashlib
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError

Kind = Literal["decision", "outcome", "shadow", "window"]
KINDS: tuple[Kind, ...] = get_args(Kind)
VERSION: Literal[1] = 1
"""Of the schema of each kind."""

CANCEL = "cancel"
"""The kind of an outcome that says: the ad was not shown. The others are numeric outcomes of the data set."""

MODEL_NAME = "coalesce(model_digest, nullif(concat_ws(' ', model_name, model_version), ''))"
"""SQL: the identity of a decision's policy: its digest or, if the arm gives none, name and version; null: the policy
names itself by none of them, or none answered."""
UNNAMED = "unnamed"
"""What a policy is called that says nothing of itself."""

ExplorationScope = Literal["channel", "exposure", "both"]

Stage = Literal["off", "shadow", "1%", "5%", "25%", "50%"]

FallbackReason = Literal[
    "features",  # the feature store failed, or what it returned can't be used
    "model_timeout",
    "model_error",
    "ledger",  # the ledger failed, or is not set up yet
    "no_account",  # no budget of the experiment is for this campaign and channel
    "no_baseline",  # the user's arm is the request's own baseline, and the request has none
    "repeated",  # another decision on the same request holds the reservation
    "no_time",  # the deadline passed before all parts were called
    "log",  # the record did not become durable within the deadline
    "internal",  # a fault of the router itself
]

Name = Annotated[str, Field(min_length=1)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Probability = Annotated[float, Field(gt=0, le=1)]
PossibleProbability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


@with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Baseline(TypedDict):
    """Choice of the caller's own logic."""

    channel: Name
    expose: bool
    propensity: Probability | None
    """Probability with which that logic does so; 1: it does nothing else. null: it is not known."""


@with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Explored(TypedDict):
    """Choice of an arm's policy by itself, before exploration."""

    share: Probability
    """Of the arm's decisions that is explored."""
    scope: ExplorationScope
    explored: bool
    """Whether this one was."""
    channel: Name
    expose: bool
    channel_probs: dict[str, PossibleProbability]
    exposure_probs: dict[str, PossibleProbability]


class V2Answer(TypedDict):
    """Answer in the v2 protocol: one output tensor for each field."""

    decision_id: Annotated[Name, Field(description="Made by the router, unique. A second record of it withdraws it.")]
    arm: Annotated[Name, Field(description="The arm that the user is assigned to, also when the decision fell back.")]
    channel: Name
    expose: Annotated[bool, Field(description="Whether the ad may be shown, and money spent.")]
    propensity: Annotated[
        Probability | None,
        Field(
            description="Probability of the channel; 1 on a fallback, or that of the baseline. Here and below, null: "
            "it is not known."
        ),
    ]
    expected_reward: float | None
    expected_cost: Amount | None
    budget_exhausted: Annotated[
        bool, Field(description="It would have been exposed, but the ledger had no money left for it.")
    ]
    fallback_reason: Annotated[
        FallbackReason | None,
        Field(
            description="Why the default action was taken, which is the request's baseline if there is one; null: it "
            "was not."
        ),
    ]


class V1Answer(V2Answer):
    """Answer in the v1 protocol, without the model."""

    request_id: Annotated[
        str | None, Field(description="The caller's id of the request, unique for a user and campaign.")
    ]
    experiment: Name
    reservation_id: str | None


class History(TypedDict):
    """Fields of the window in a decision's record; all null: none was built."""

    static: Annotated[dict[str, str | float | None] | None, Field(description="Static columns of the user, as stored.")]
    history_length: Annotated[int | None, Field(ge=0, description="Touchpoints of the window.")]
    last_channel: Annotated[Name | None, Field(description="Of the newest of them; null: there is none.")]
    last_time: Annotated[Time | None, Field(description="Likewise, when it was, UTC.")]


@with_config(ConfigDict(title="decision", extra="forbid", use_attribute_docstrings=True))
class DecisionRecord(V1Answer, History):
    """One decision of the router, with everything that an evaluation needs."""

    schema_version: Literal[1]
    unit_hash: Hash
    """Pseudonym of the user, for joins that need no name."""
    user_id: Name
    layer: Name
    salt: Name
    experiment_version: Hash
    """Of the experiment as it was in force: its file, without what is only planned."""
    shares: dict[str, PossibleProbability]
    """Of the experiment's users, by arm."""
    assignment_probability: Probability
    """Share of the arm; 1: this user was not randomised: no experiment, outside, held out, overridden."""
    override: bool
    """Whether the experiment file named the user's arm: the decision counts for no comparison."""
    stage: Stage
    """Of the experiment; off: the kill switch was on."""
    model_name: str | None
    """Of the model that answered, whether its answer was taken or not; null, as version and digest: it did not say."""
    model_version: str | None
    model_digest: str | None
    feature_hash: Hash | None
    """Of the window that the model saw; null: none was built."""
    features_found: bool
    """false: the user has no history."""
    campaign_id: Name
    context: dict[str, str | float | None]
    """As the request gave it."""
    request_time: Time
    """When the opportunity arose, UTC: as the request said, or came."""
    request_hash: Hash | None
    """Of what the request said; null: it had no id. The same id has one hash."""
    candidates: Annotated[list[Name], Field(min_length=1)]
    """Channels that were on offer."""
    costs: dict[str, Amount]
    """Highest possible cost in each channel then, currency units, as far as the request said it."""
    baseline: Baseline | None
    """As the request gave it."""
    exploration: Explored | None
    """null: nothing is explored. What follows is of policy and exploration together."""
    drawn_channel: Name | None
    """What was drawn, also where the default action was taken after all; null: no draw."""
    channel_probs: dict[str, PossibleProbability]
    """Of drawing each candidate, in the order of the draw, or the drawn one alone; empty: no draw, or none is known."""
    exposure_probs: dict[str, PossibleProbability]
    """Probability of wanting to expose each channel, once it is drawn; empty: it is not known."""
    expected_rewards: dict[str, float]
    """Of an exposure in each channel; without those that are not known."""
    expected_costs: dict[str, Amount]
    """Likewise, currency units."""
    price: Amount | None
    """Gain per currency unit that the model asked for; null: it did not say."""
    prices: dict[str, Amount]
    """The same for each channel; without those that are not known."""
    state_distance: Amount | None
    """Distance of the user's state from those of training, in their root mean square; null: the model did not say."""
    reserved: Amount
    """Currency units set aside."""
    refused_until: Time | None
    """Of an exhausted budget: end of the last period that may have refused it, UTC; null: one of them has no end."""
    withdrawn: bool
    """true: nothing was shown, even if another record of this decision has an exposure."""
    latency_seconds: Amount
    """From the request to this record."""
    event_time: Time
    """When the decision was taken, UTC."""


@with_config(ConfigDict(title="outcome", extra="forbid", use_attribute_docstrings=True))
class OutcomeRecord(TypedDict):
    """Something that became known after a decision."""

    schema_version: Literal[1]
    event_id: Name
    """The sender's id of this event: of a decision, the same id counts once."""
    decision_id: Name
    kind: Name
    """cost, click, conversion, revenue, a further numeric outcome of the data set, or cancel."""
    value: float
    """Negative at most for revenue and for further outcomes."""
    event_time: Time
    """When it happened, UTC."""
    received_time: Time
    """When the router heard of it, UTC."""


@with_config(ConfigDict(title="shadow", extra="forbid", use_attribute_docstrings=True))
class ShadowRecord(TypedDict):
    """Decision of a challenger at stage shadow. It was never shown, and nothing was reserved for it.

    Features, request and the draw are those of the decision with the same `decision_id`.
    """

    schema_version: Literal[1]
    shadow_id: Name
    """Of the decision and the arm."""
    decision_id: Name
    """Of what the incumbent decided."""
    experiment: Name
    arm: Name
    """The challenger."""
    fault: FallbackReason | None
    """Why it did not decide; null: it did."""
    channel: Name | None
    """null: it did not decide. The rest is as in a decision."""
    expose: bool | None
    """Whether it would have exposed, if its budget had allowed it."""
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
    """When it answered, UTC."""


@with_config(ConfigDict(title="window", extra="forbid", use_attribute_docstrings=True))
class WindowRecord(TypedDict):
    """The window of a decision, of a sample of the users: it is larger than all the rest of a decision."""

    schema_version: Literal[1]
    decision_id: Name
    unit_hash: Hash
    """Of its user, so that a forgotten one's is not uploaded."""
    window: dict[str, Any]
    """As the model was asked with it."""
    event_time: Time
    """Of the decision, UTC."""


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

# Which of several records with one id counts. The router withdraws a decision whose record may become durable too late:
# both records can be in the log then, in either order, and the withdrawal counts. Apart from that, records with one id
# are copies, because the log is shipped at least once. (If a sender gave one event two values, and two routers took one
# each, all readers must take the same; of copies the one that was received first.)
_FIRST_COUNTS: dict[Kind, str] = {
    "decision": "withdrawn DESC, event_time",
    "outcome": "event_time, value, received_time",
    "shadow": "event_time",
    "window": "event_time",
}


@cache
def json_schema(kind: Kind) -> dict[str, Any]:
    """The JSON schema (2020-12) of a record."""
    schema = TypeAdapter(_RECORDS[kind]).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"{kind}.v{VERSION}.json", **schema}


@cache
def sql_columns(kind: Kind) -> dict[str, str]:
    """Columns and their DuckDB types; objects and lists stay JSON text, for their keys differ between data sets."""
    columns = {name: _SQL_TYPES.get(type_, "VARCHAR") for name, type_ in plain_types(_RECORDS[kind]).items()}
    times = {name for name in columns if name.endswith(("_time", "_until"))}
    return columns | dict.fromkeys(times, "TIMESTAMPTZ")


def rank_among_copies(kind: Kind) -> str:
    """SQL: 1 for the record that counts, of those of one decision with one id.

    An event that was reported for two decisions counts once for each: no reader compares their files.
    """
    same = ", ".join(dict.fromkeys(("decision_id", ID_FIELD[kind])))
    return f"row_number() OVER (PARTITION BY {same} ORDER BY {_FIRST_COUNTS[kind]})"


def this_version(kind: Kind) -> str:
    """SQL: true of a record of this version of the schema; an error that names both versions of another one."""
    said = f"'a {kind} record of schema version ' || schema_version || '; this release reads {VERSION}'"
    return f"CASE WHEN schema_version <> {VERSION} THEN error({said}) ELSE true END"


def segment_sql(spec: DatasetSpec, name: str, record: str) -> str:
    """DuckDB SQL: a column's value as text, or null, in the record of this alias; LogError for no categorical column.

    For "device" and "d": json_extract_string(d.context, '$.device').
    """
    known = [column.name for column in (*spec.context, *spec.static) if column.kind == "categorical"]
    if name not in known:
        raise LogError(f"by: {name!r} is no categorical column; there are {', '.join(known) or 'none'}")
    of_user = name in [column.name for column in spec.static]
    return f"json_extract_string({record}.{'static' if of_user else 'context'}, '$.{name}')"


def unit_hash(user_id: str) -> str:
    """The pseudonym of a user in the records."""
    return hashlib.blake2b(user_id.encode(), digest_size=8).hexdigest()


def is_sampled(unit: str, share: float) -> bool:
    """Whether a user, by `unit_hash`, is one of those whose windows are logged; a larger share adds users."""
    return int(unit[8:], 16) < share * 2**32


def plain_types(record: Any) -> dict[str, type]:
    """The fields of a record or an answer, in order, each with its plain Python type; that of `str | None` is str."""
    return {name: _plain(hint) for name, hint in get_type_hints(record, include_extras=False).items()}


def _plain(hint: Any) -> type:
    if get_origin(hint) in (Union, UnionType):
        return _plain(next(part for part in get_args(hint) if part is not NoneType))
    if get_origin(hint) is Literal:
        return type(get_args(hint)[0])
    plain: type = get_origin(hint) or hint
    return plain
