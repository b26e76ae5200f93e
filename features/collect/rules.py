"""Decides, in SQL, which collected decisions a policy can learn from, and with which probabilities.

`decided_query` computes what depends on a decision alone. The result is stored in the lake (`stored_rows.py`).
`observed_query` adds what may change later: outcomes, refusals in other hours, and age. `JUDGED` then corrects for
failed exposures.

An *opportunity* is a decision for which a policy drew a channel and then exposed it or not, both with known
probabilities. A *touchpoint* is an exposure that took place. The value of a policy is estimated from opportunities.
Touchpoints alone would be a biased sample, because MTORL exposes some channels more often than others.

An exposure took place if at least one of its outcomes arrived. This is its cost, if nothing else. Decisions are left
out for these reasons, and counted by reason:

    override            the experiment file assigned the user's arm, for a trial
    repeated            another decision on the same request has the reservation
    no_account          the campaign and channel have no budget
    no_draw             the default action was taken before a policy answered
    no_probabilities    the probability of drawing or exposing a channel is missing, or is for other channels
    budget_gone         the arm's money for this campaign was refused, at this decision or earlier in the budget's
                        period: the outcome of an exposure is missing, not zero
    other_columns       the context lacks a column that the data set requires
    not_mature          the decision is so recent that outcomes may still arrive

Exposures of users with an override are still touchpoints, because these users saw the ads.

An exposure may fail although the policy wanted it, because of an error of the ledger or the log, a cancellation, or a
missing outcome. Such a decision counts as not exposed. To correct for this, each probability of exposing is multiplied
by the share of wanted exposures that took place in the same arm on the same day (UTC).

DuckDB and Spark return bit-identical rows. The sum of floats depends on the order of addition, so floats are sorted
before they are added (`_total`) or converted to integers (`_UNIT`).
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime

from mtorl.log.dataset import EVENTS, Column, DatasetSpec
from mtorl.log.decision_ids import BUCKETS, bucket_of_hash
from mtorl.log.lake import instant
from mtorl.log.records import MODEL_NAME, UNNAMED
from mtorl.runtime.sql import sql_name, sql_text

PLACE = "_place"
"""Name of a column with a user's bucket, followed by the user's hash. To select a share of the users, select all users
whose value is below a bound (`of_users`)."""
SAMPLED = "_sampled"
_NEVER = "TIMESTAMPTZ '9999-12-31 00:00:00+00:00'"
_UNIT = f"{2**32}e0"
_ACCOUNT = "experiment, experiment_version, arm, campaign_id"
_IN_TIME = f"PARTITION BY {_ACCOUNT} ORDER BY event_time, decision_id"
_OTHER_COLUMNS = "other_columns"
# SQL that merges overlapping periods in which an arm has no budget left. A period starts at the decision `refused_id`.
_STRETCHES = f"""following AS (
        SELECT *, max(gone_until) OVER ({_IN_TIME} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS gone_before
        FROM refusal),
    numbered AS (
        SELECT *, sum(CASE WHEN gone_before > event_time THEN 0 ELSE 1 END) OVER (
                   {_IN_TIME} ROWS UNBOUNDED PRECEDING) AS stretch
        FROM following),
    stretch_of AS (
        SELECT {_ACCOUNT}, min(event_time) AS refused_at, max(gone_until) AS refused_to,
               max(CASE WHEN gone_before > event_time THEN NULL ELSE decision_id END) AS refused_id  -- the first one's
        FROM numbered GROUP BY {_ACCOUNT}, stretch)"""


_WANTED = f"CAST(sum(CAST(floor(_wanted * {_UNIT} + 0.5) AS BIGINT)) AS BIGINT)"
REALISED = f"""SELECT arm, _day, count_if(exposed) * {_UNIT} / nullif({_WANTED}, 0) AS _share
    FROM observed WHERE left_out IS NULL AND {SAMPLED} GROUP BY arm, _day"""
"""SQL for the share of wanted exposures that took place, by arm and day. It reads the table `observed` of
`observed_query`."""
JUDGED = """SELECT * EXCLUDE (_exposure_probs, _wanted, _share),
           list_transform(_exposure_probs, lambda p: p * coalesce(_share, 1.0)) AS exposure_probs
    FROM observed LEFT JOIN realised USING (arm, _day)"""
"""SQL that returns one row per decision. It reads the tables `observed` and `realised`.

These columns describe the decision: decision_id, user_id, `PLACE`, timestamp (of the opportunity), campaign_id, arm,
generation (the digest of the policy that drew the channel, or its name and version), drawn_channel, channel_probs and
exposure_probs (lists in the order of the channels), exposed (true if the drawn channel was shown), left_out (the
reason; null for an opportunity), `SAMPLED`, and the context columns.

These columns describe the exposure: touchpoint (true if an exposure took place, perhaps of the default action),
incomplete (true if the exposure lacks a required column), channel, propensity (null if unknown), the outcomes, the
times at which the router received the timed outcomes, and the static columns.
"""


def decided_query(spec: DatasetSpec) -> str:
    """Return SQL that computes the columns that depend only on the decision itself, not on its outcomes.

    Besides columns of `JUDGED`, the SQL returns these columns:

        reason: Reason why a policy can't learn from the decision, or null.
        wanted: Probability that the policy wanted to show the ad.
        shown: True if the decision was to show the ad, and was not withdrawn later. An outcome may be missing.
        fits: True if the channel is known and no required value is missing.
        lacks: True if a required value is missing.
        gone_until: If this decision starts a period without budget, the end of this period. Otherwise null.
    """
    own = [("of_context", column) for column in spec.context] + [("of_user", column) for column in spec.static]
    columns = "".join(f"{_value(struct, column)} AS {_own(column)}, " for struct, column in own)
    place = "lpad(CAST(bucket AS VARCHAR), 2, '0') || substr(unit_hash, 3)"
    channels = f"[{', '.join(map(sql_text, spec.channels))}]"
    by_channel = fields(spec.channels, "DOUBLE")
    context, static = (fields([column.name for column in of], "VARCHAR") for of in (spec.context, spec.static))
    without_context = _lacks("of_context", spec.context)
    lacks = f"({without_context} OR {_lacks('of_user', spec.static)})"
    # After any edit of this SQL, all stored results are computed again.
    return f"""
    WITH record AS (
        SELECT * EXCLUDE (exposure_probs, channel_probs, "static"),
               exposure_probs = '{{}}' OR channel_probs = '{{}}' AS unsaid,
               json_transform(channel_probs, {by_channel}) AS drawing,
               json_transform(exposure_probs, {by_channel}) AS exposing,
               json_transform(context, {context}) AS of_context,
               CASE WHEN expose THEN json_transform("static", {static}) END AS of_user
        FROM collected_decision),
    observed AS (
        SELECT *, {_list("drawing", spec)} AS channel_probs, {_list("exposing", spec)} AS exposure_probs FROM record),
    refusal AS (
        SELECT {_ACCOUNT}, event_time, decision_id, coalesce(refused_until, {_NEVER}) AS gone_until
        FROM collected_decision WHERE budget_exhausted AND NOT override),  -- theirs is another account
    {_STRETCHES}
    SELECT decision_id, user_id, {place} AS {PLACE}, event_time, request_time AS timestamp, {_ACCOUNT},
           coalesce({MODEL_NAME}, '{UNNAMED}') AS generation, channel, drawn_channel, channel_probs, exposure_probs,
           salt, withdrawn, refused_to AS gone_until,
           CASE WHEN override THEN 'override'
                WHEN fallback_reason IN ('repeated', 'no_account') THEN fallback_reason
                WHEN drawn_channel IS NULL AND fallback_reason IS NOT NULL THEN 'no_draw'
                WHEN unsaid OR drawn_channel IS NULL OR list_sum(channel_probs) < 0.999 OR {_unsaid_exposure(spec)}
                THEN 'no_probabilities'
                WHEN {without_context} THEN '{_OTHER_COLUMNS}'
           END AS reason,
           CASE WHEN fallback_reason = 'ledger' OR (expose AND fallback_reason IS NULL) THEN 1.0
                WHEN fallback_reason IS NOT NULL OR withdrawn
                THEN {of_channel("exposure_probs", "drawn_channel", spec)}
                ELSE 0.0 END AS wanted,
           budget_exhausted AND NOT override AS refuses,
           expose AND NOT withdrawn AS shown, fallback_reason IS NULL AS by_policy,
           list_contains({channels}, channel) AND NOT {lacks} AS fits, {lacks} AS lacks,
           CASE WHEN fallback_reason IS NULL AND NOT unsaid
                THEN {of_channel("channel_probs", "channel", spec)} END AS propensity, {columns} hour
    FROM observed LEFT JOIN (SELECT refused_id, refused_to FROM stretch_of) AS first ON decision_id = refused_id
    """


def refused_query() -> str:
    """Return SQL for the periods in which an arm has no budget left for a campaign, as one row per day and period."""
    return f"""WITH refusal AS (
        SELECT {_ACCOUNT}, event_time, decision_id, gone_until FROM every_decided WHERE gone_until IS NOT NULL),
    {_STRETCHES}
    SELECT * FROM stretch_of JOIN (SELECT DISTINCT event_time::DATE AS day FROM every_decided) AS days
        ON day BETWEEN refused_at::DATE AND refused_to::DATE
    """


def observed_query(spec: DatasetSpec, mature_until: datetime, sampled: str) -> str:
    """Return SQL that joins each decision of the view `decided` with its clicks, conversions and other outcomes.

    Args:
        mature_until: Later decisions are left out as `not_mature`, because outcomes may still arrive.
    """
    times = spec.outcome_times
    outcomes = "".join(f"coalesce({_outcome(kind)}, 0) AS {sql_name(kind)}, " for kind in spec.outcome_kinds)
    # Clocks may differ. An outcome that seems to be earlier than its request gets the time of the request.
    outcomes += "".join(
        f"if({_outcome(time)} IS NULL, NULL, greatest({_outcome(time)}, timestamp)) AS {sql_name(time)}, "
        for time in times.values()
    )
    totals = [*map(_total, spec.outcome_kinds), *(_known(kind, time) for kind, time in times.items())]
    columns = ", ".join(f"{_own(column)} AS {sql_name(column.name)}" for column in (*spec.context, *spec.static))
    same = " AND ".join(f"decided.{name} IS NOT DISTINCT FROM refused_on.{name}" for name in _ACCOUNT.split(", "))
    return f"""
    WITH outcome AS (
        SELECT decision_id, {", ".join(totals)}, count_if(kind <> 'cancel') > 0 AS happened
        FROM collected_outcome GROUP BY decision_id),
    observed AS (
        SELECT decided.*, outcome.* EXCLUDE (decision_id), shown AND coalesce(happened, false) AS took_place,
               took_place AND by_policy AS exposed, {sampled} AS {SAMPLED},
               refused_at < decided.event_time OR refused_id <= decided.decision_id AS refused
        FROM decided LEFT JOIN outcome USING (decision_id)
        LEFT JOIN refused_on ON {same} AND decided.event_time::DATE = day
            AND refused_at <= decided.event_time AND decided.event_time < refused_to)
    SELECT decision_id, user_id, {PLACE}, timestamp, campaign_id, arm, generation, drawn_channel, channel_probs,
           exposure_probs AS _exposure_probs, event_time::DATE AS _day, wanted AS _wanted, exposed, {SAMPLED},
           CASE WHEN reason <> '{_OTHER_COLUMNS}' THEN reason
                WHEN refused THEN 'budget_gone'
                WHEN reason IS NOT NULL THEN reason
                WHEN event_time > {instant(mature_until)} THEN 'not_mature'
           END AS left_out, took_place AND fits AS touchpoint, took_place AND lacks AS incomplete, channel,
           if(exposed, propensity, NULL) AS propensity, {outcomes} {columns}
    FROM observed
    """


def of_users(share: float) -> tuple[str, str]:
    """Return two SQL conditions that select a share of the users by a hash of their id.

    The first condition needs the column `PLACE`. The second one needs only `bucket`, but selects slightly more users.
    """
    bucket = int(share * BUCKETS)
    within = f"{bucket:02d}{int((share * BUCKETS - bucket) * 16**14):014x}"
    return (f"{PLACE} < {sql_text(within)}", f"bucket <= {bucket}") if share < 1 else ("true", "true")


def of_forgotten(users: Mapping[str, datetime]) -> str:
    """Return an SQL condition that is true for rows of a forgotten user from before the user was forgotten.

    Args:
        users: Hashes of user ids, each with the time at which the user was forgotten.
    """
    places = {name: f"{bucket_of_hash(name):02d}{name[2:]}" for name in users}
    each = [f"({PLACE} = {sql_text(places[name])} AND event_time < {instant(until)})" for name, until in users.items()]
    return f"coalesce({' OR '.join(each)}, false)"


def of_channel(values: str, channel: str, spec: DatasetSpec) -> str:
    """Return SQL for the element of the list `values` that belongs to one channel."""
    places = " ".join(f"WHEN {sql_text(name)} THEN {values}[{place}]" for place, name in enumerate(spec.channels, 1))
    return f"CASE {channel} {places} END"


def _total(kind: str) -> str:
    if kind in EVENTS:
        return f"max(CASE WHEN kind = '{kind}' AND value > 0 THEN 1 ELSE 0 END) AS {_outcome(kind)}"
    return f"coalesce(list_sum(list_sort(list(value) FILTER (kind = '{kind}'))), 0.0) AS {_outcome(kind)}"


def _known(kind: str, time: str) -> str:
    """Return SQL for the time from which the router knew an outcome."""
    # An amount such as revenue may arrive in several parts, so it is known with the last part.
    first_or_last, happened = ("min", "> 0") if kind in EVENTS else ("max", "<> 0")
    return f"{first_or_last}(received_time) FILTER (kind = '{kind}' AND value {happened}) AS {_outcome(time)}"


def _outcome(kind: str) -> str:
    """Return an outcome's column name, which can't conflict with a field of a decision."""
    return f'"outcome:{kind}"'


def _own(column: Column) -> str:
    """Return a data set column's name, which can't conflict with a field of a decision."""
    return sql_name(f"own:{column.name}")


def _value(struct: str, column: Column) -> str:
    value = f"{struct}.{sql_name(column.name)}"
    value = f"TRY_CAST({value} AS DOUBLE)" if column.kind == "numeric" else value
    return f"coalesce({value}, 0.0)" if column.missing == "zero" else value


def _unsaid_exposure(spec: DatasetSpec) -> str:
    """Return an SQL condition: some channel that the policy may draw has no probability of exposing."""
    names = [sql_name(channel) for channel in spec.channels]
    return " OR ".join(f"(coalesce(drawing.{name}, 0.0) > 0 AND exposing.{name} IS NULL)" for name in names)


def _lacks(struct: str, columns: tuple[Column, ...]) -> str:
    lacking = [f"{_value(struct, column)} IS NULL" for column in columns if column.missing == "error"]
    return f"({' OR '.join(lacking) or 'false'})"


def _list(struct: str, spec: DatasetSpec) -> str:
    return f"[{', '.join(f'coalesce({struct}.{sql_name(channel)}, 0.0)' for channel in spec.channels)}]"


def fields(names: Iterable[str], type_: str) -> str:
    """Return the structure of a JSON object with these fields, as DuckDB's function `json_transform` needs it."""
    return sql_text(json.dumps(dict.fromkeys(names, type_) or {"_": type_}))
