"""Measures the decisions of one period, such as the gain per decision, each with a standard error.

    journeys      the user's past, as the model reads it, over all decisions
    decisions     choices of the incumbent; not of challengers, because a ramp changes their users
    outcomes      outcomes of all decisions until the end of the period
    performance   for each arm: how well the model predicts and ranks outcomes, and how far users are from training

A measure is a ratio of two sums over users, R = sum(N_u) / sum(D_u), with the variance sum((N_u - R D_u)^2) /
sum(D_u)^2. Each user is one term of the sums, because the decisions of one user are correlated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from monitoring.decision_log import DecisionLog
from monitoring.watch.stream_names import stream_of
from mtorl.experiment.arm import INCUMBENT, OUTSIDE
from mtorl.log.gain import Gain
from mtorl.log.records import CANCEL, MODEL_NAME
from mtorl.runtime.sql import sql_text

if TYPE_CHECKING:
    import duckdb

# Minimum number of users for a measure.
MIN_USERS = 100
# If more than this share of the exposures has a gain other than 0 or 1, no AUC is computed.
MOST_OTHER_GAINS = 0.01
# Measure predictions for at most this many arms, those with the most decisions.
MOST_ARMS = 30
_ARM = f"""CASE WHEN arm IN ('{INCUMBENT}', '{OUTSIDE}') OR experiment IS NULL THEN arm
                    ELSE experiment || '/' || arm END"""
# Limits the values in memory. Each has 8 bytes, and exists three times for a moment.
MOST_VALUES = 10_000_000
# Compute an arm's AUC from at most this many exposures.
MOST_RANKED = 200_000


class Measured(NamedTuple):
    """One measure of one period, such as the gain per decision.

    Attributes:
        arm: Arm such as "spring/challenger"; "" for all arms together.
        se: Standard error of the value.
        size: Denominator of the ratio; 0 if the measure is not a ratio.
    """

    group: str
    arm: str
    measure: str
    value: float
    se: float
    size: float = 0.0

    @property
    def stream(self) -> str:
        """Return the name of this measure's stream."""
        return stream_of(self.group, self.arm, self.measure)


class Counted(NamedTuple):
    """The decisions of a period, with all measures.

    Attributes:
        heard: Number of exposures with at least one outcome.
        incumbent: Policy that took the incumbent's newest decision; "" if it is unknown.
        by_arm: Measures of outcomes, computed separately for each challenger and for all other decisions.
        seen: For each group of measures, the largest number of users that a measure has.
    """

    decisions: int
    users: int
    exposures: int
    heard: int
    measured: tuple[Measured, ...]
    incumbent: str = ""
    by_arm: tuple[Measured, ...] = ()
    seen: Mapping[str, int] = {}

    @property
    def outcomes_missing(self) -> bool:
        """Return whether there are exposures, but none has an outcome."""
        return self.exposures > 0 and self.heard == 0


class _Ratio(NamedTuple):
    group: str
    arm: str
    measure: str
    # SQL of a decision's value; null counts as 0.
    numerator: str
    denominator: str = "1"
    where: str = "true"


def measure(log: DecisionLog, gain: Gain, outcomes: Sequence[str], channels: Sequence[str]) -> Counted:
    """Compute all measures of a period, which must have a start and an end."""
    with log.opened("outcome", near=True) as db:
        kinds = tuple(dict.fromkeys((*outcomes, *gain.names, "cost")))
        _copy(db, log, kinds, gain)
        counts = (
            "count(*), count(DISTINCT user_id), count(*) FILTER (expose AND NOT withdrawn), count(*) FILTER (heard)"
        )
        ((decisions, users, exposures, heard),) = db.execute(f"SELECT {counts} FROM decided").fetchall()
        counted = Counted(decisions, users, exposures, heard, ())
        ratios = [*_journeys(channels), *_decisions(channels), *_performance(db, counted.outcomes_missing)]
        if not counted.outcomes_missing:
            ratios += [*_gain_in_budget(db), *_of_spend()]
            ratios += [_Ratio("outcomes", "", f"{kind}_per_decision", f'"came_{kind}"') for kind in kinds]
            ratios += _by_arm(db)
        seen: Counter[str] = Counter()
        found = [*_measured(db, ratios, decisions, seen), *_ranking(db, gain, counted.outcomes_missing)]
        by_arm = tuple(each for each in found if each.group == "outcomes" and each.arm)
        measured = tuple(each for each in found if each not in by_arm)
        newest = db.execute("SELECT arg_max(policy, taken_at) FROM decided WHERE arm = $arm", {"arm": INCUMBENT})
        ((incumbent,),) = newest.fetchall()
        return counted._replace(measured=measured, by_arm=by_arm, incumbent=incumbent or "", seen=seen)


def _copy(db: duckdb.DuckDBPyConnection, log: DecisionLog, kinds: Sequence[str], gain: Gain) -> None:
    db.execute(
        f"""CREATE TABLE taken AS
        SELECT user_id, decision_id, {_ARM} AS arm, drawn_channel, expose, propensity, expected_reward, state_distance,
               fallback_reason, budget_exhausted, withdrawn, {MODEL_NAME} AS policy, event_time AS taken_at,
               feature_hash IS NOT NULL AS built, history_length, last_channel, request_time, last_time
        FROM decision_log
        WHERE {log.period.condition()} AND NOT override"""
    )
    sums = ", ".join(f'sum(value) FILTER (kind = {sql_text(kind)}) AS "of_{kind}"' for kind in kinds)
    came = ", ".join(f'coalesce("of_{kind}", 0) AS "came_{kind}"' for kind in kinds)
    total = " + ".join(f'{weight!r} * "came_{name}"' for name, weight in gain.terms)
    db.execute(
        f"""CREATE TABLE decided AS
        WITH event AS (SELECT decision_id, {sums}, bool_or(kind = '{CANCEL}') AS cancelled, true AS heard
                       FROM outcome_log SEMI JOIN taken USING (decision_id)
                       WHERE event_time < CAST($until AS TIMESTAMPTZ) GROUP BY decision_id),
             joined AS (SELECT taken.*, {came}, expose AND NOT withdrawn AND NOT coalesce(cancelled, false) AS shown,
                               expose AND NOT withdrawn AND coalesce(event.heard, false) AS heard
                        FROM taken LEFT JOIN event USING (decision_id))
        SELECT *, {total} AS came_gain FROM joined""",
        {"until": log.period.until},
    )
    db.execute("DROP TABLE taken")


def _journeys(channels: Sequence[str]) -> Iterator[_Ratio]:
    hours, seen = "(epoch_us(request_time) - epoch_us(last_time)) / 3.6e9", "built AND last_channel IS NOT NULL"
    yield _Ratio("journeys", "", "history_length", "history_length", where="built")
    yield _Ratio("journeys", "", "no_history_ratio", "(last_time IS NULL)::INT", where="built")
    yield _Ratio("journeys", "", "recency_hours", hours, where="built AND last_time IS NOT NULL")
    for channel in channels:
        of = f"(last_channel = {sql_text(channel)})::INT"
        yield _Ratio("journeys", "", f"last_channel_{channel}_ratio", of, where=seen)


def _decisions(channels: Sequence[str]) -> Iterator[_Ratio]:
    drawn = "drawn_channel IS NOT NULL"
    measures = [
        *((f"channel_{name}_ratio", f"(drawn_channel = {sql_text(name)})::INT", drawn) for name in channels),
        ("exposure_ratio", "expose::INT", "true"),
        ("budget_exhausted_ratio", "budget_exhausted::INT", "true"),
        ("fallback_ratio", "(fallback_reason IS NOT NULL)::INT", "true"),
        ("propensity", "propensity", f"{drawn} AND propensity IS NOT NULL"),
        ("expected_gain", "expected_reward", "expected_reward IS NOT NULL"),
    ]
    for name, value, where in measures:
        yield _Ratio("decisions", INCUMBENT, name, value, where=f"arm = '{INCUMBENT}' AND {where}")


def _gain_in_budget(db: duckdb.DuckDBPyConnection, arm: str = "", where: str = "true") -> Iterator[_Ratio]:
    """Measure the gain per decision, as if an exhausted budget had not prevented exposures.

    A prevented exposure counts with the mean gain of the others. The term with `came_gain - g` sums to 0, and adds the
    uncertainty of that mean to the standard error (delta method).
    """
    sums = "coalesce(sum(came_gain) FILTER (shown), 0), count_if(shown), coalesce(count_if(budget_exhausted), 0)"
    ((gain, shown, refused),) = db.execute(f"SELECT {sums} FROM decided WHERE {where}").fetchall()
    if shown:
        g, share = gain / shown, refused / shown
        others = f"{share!r} * (came_gain - {g!r}) * shown::INT + {g!r} * coalesce(budget_exhausted, false)::INT"
        gained = f"came_gain + {others}" if refused else "came_gain"
        yield _Ratio("outcomes", arm, "gain_per_decision", gained, where=where)


def _of_spend(arm: str = "", where: str = "true") -> Iterator[_Ratio]:
    yield _Ratio("outcomes", arm, "gain_per_cost", "came_gain", '"came_cost"', where)
    yield _Ratio("outcomes", arm, "cost_per_exposure", '"came_cost"', "1", f"shown AND {where}")


def _by_arm(db: duckdb.DuckDBPyConnection) -> Iterator[_Ratio]:
    """Measure outcomes for each challenger, if there is any, and for all other decisions together."""
    challengers = [arm for arm in _arms(db) if arm != INCUMBENT]
    others = f"arm IN ('{INCUMBENT}', '{OUTSIDE}')"
    arms = {INCUMBENT: others, **{arm: f"arm = {sql_text(arm)}" for arm in challengers}} if challengers else {}
    for arm, where in arms.items():
        yield from _gain_in_budget(db, arm, where)
        yield from _of_spend(arm, where)


def _performance(db: duckdb.DuckDBPyConnection, outcomes_missing: bool) -> Iterator[_Ratio]:
    for arm in _arms(db):
        its = f"arm = {sql_text(arm)}"
        distance = "state_distance"
        yield _Ratio("performance", arm, distance, distance, where=f"{its} AND {distance} IS NOT NULL")
        if not outcomes_missing:
            expected = f"{its} AND shown AND expected_reward IS NOT NULL"
            yield _Ratio("performance", arm, "calibration", "came_gain", "expected_reward", expected)


def _arms(db: duckdb.DuckDBPyConnection) -> list[str]:
    decisions = f"SELECT arm, count(*) AS n FROM decided WHERE arm <> '{OUTSIDE}' GROUP BY arm"
    rows = db.execute(f"{decisions} ORDER BY n DESC, arm LIMIT {MOST_ARMS}").fetchall()
    return [arm for arm, _ in rows]


def _measured(
    db: duckdb.DuckDBPyConnection, ratios: Sequence[_Ratio], decisions: int, seen: Counter[str]
) -> Iterator[Measured]:
    """Compute the ratios from sums over users, in parts of the users to limit the memory."""
    # Maps the SQL of a value to its column, so that ratios with the same denominator share a column.
    columns: dict[str, str] = {}

    def column(value: str, where: str) -> str:
        sql = f"coalesce(CASE WHEN {where} THEN ({value})::DOUBLE END, 0)"
        return columns.setdefault(sql, f"value{len(columns)}")

    names = [tuple(column(part, ratio.where) for part in (ratio.numerator, ratio.denominator, "1")) for ratio in ratios]
    values = ", ".join(f"{sql} AS {name}" for sql, name in columns.items())
    parts = -(-decisions * len(columns) // MOST_VALUES) or 1
    found = np.zeros((len(ratios), 6))
    for part in range(parts) if ratios else ():
        query = f"SELECT hash(user_id) AS user_hash, {values} FROM decided WHERE hash(user_id) % {parts} = {part}"
        read = {name: np.ma.getdata(column) for name, column in db.execute(query).fetchnumpy().items()}
        users = read.pop("user_hash")
        if not len(users):
            continue
        order = np.argsort(users)
        begins = np.flatnonzero(np.diff(users[order], prepend=users[order[:1]] + 1))
        sums = {name: np.add.reduceat(column[order], begins) for name, column in read.items()}
        for i, of in enumerate(names):
            n_U, d_U, c_U = (sums[name] for name in of)
            found[i] += n_U.sum(), d_U.sum(), n_U @ n_U, n_U @ d_U, d_U @ d_U, np.count_nonzero(c_U)
    for ratio, (ns, ds, nn, nd, dd, counted) in zip(ratios, found.tolist(), strict=True):
        seen[ratio.group] = max(seen[ratio.group], round(counted))
        if not ds or counted < MIN_USERS:
            continue
        value = ns / ds
        squares = max(0.0, nn - 2 * value * nd + value * value * dd)
        se = math.sqrt(squares * counted / (counted - 1)) / abs(ds)
        if math.isfinite(value) and math.isfinite(se):
            yield Measured(ratio.group, ratio.arm, ratio.measure, value, se, ds)


def _ranking(db: duckdb.DuckDBPyConnection, gain: Gain, outcomes_missing: bool) -> Iterator[Measured]:
    """Compute the AUC with which each model ranks exposures, if the gain of an exposure is 0 or 1."""
    from mtorl.evaluation.head_metrics import auc_error, expected_auc, realised_auc

    if len(gain.terms) != 1:
        return
    weight = gain.terms[0][1]
    for arm in _arms(db):
        its = f"arm = {sql_text(arm)} AND shown AND expected_reward IS NOT NULL"
        shown = db.execute(
            f"""SELECT expected_reward / {weight!r} AS p, came_gain / {weight!r} AS came, user_id
            FROM decided WHERE {its} ORDER BY hash(decision_id) LIMIT {MOST_RANKED}"""
        ).df()
        if shown["user_id"].nunique() < MIN_USERS or (~shown["came"].isin((0.0, 1.0))).mean() > MOST_OTHER_GAINS:
            continue
        p, success = shown["p"].to_numpy(), shown["came"].to_numpy() > 0
        hits = int(success.sum())
        area = realised_auc(p, success)
        if math.isfinite(area) and not outcomes_missing:
            yield Measured("performance", arm, "auc", area, auc_error(area, hits, len(p) - hits))
        foreseen = expected_auc(p)
        if ((p >= 0.0) & (p <= 1.0)).all() and math.isfinite(foreseen):
            yield Measured("performance", arm, "expected_auc", foreseen, auc_error(foreseen, hits or 1, len(p) - hits))
