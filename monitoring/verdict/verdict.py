"""Computes the verdict on an experiment: adds up its users in DuckDB, then tests the sums with `mtorl.experiment`.

The rules are in docs/verdict.md. In a replay of a real log, the decisions have weights. If the policy showed the ad on
the logged channel, which was chosen with probability p, the weight is 1 / p. If the policy showed no ad, the weight is
1. If the outcome is unknown, the weight is 0.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import orjson

from monitoring import messages, plain_words
from monitoring.decision_log import DecisionLog
from monitoring.verdict.comparison import Comparison, ratio_of
from monitoring.verdict.counted_decisions import CHANGED, shares_of_stages
from monitoring.verdict.experiment_users import ExperimentUsers, Users, experiment_users
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.false_discoveries import discoveries, log_e_value, p_value
from mtorl.experiment.inference.sample_ratio import SRM_ALARM, srm_p_value
from mtorl.experiment.inference.verdict import (
    ErrorShares,
    GuardrailCheck,
    check_guardrail,
    leading,
    reach_verdict,
    rules_out,
)
from mtorl.experiment.metrics import COST, WEIGHT, gain_of, is_per_decision, of_primary, outcomes_of, total_of, unit_of
from mtorl.log.gain import Gain
from mtorl.runtime.message import Message

CLICK = Gain.of_spec("click")


def verdict_from_log(log: DecisionLog, experiment: Experiment, gain: Gain = CLICK) -> dict[str, Any]:
    """Compute the verdict over all stages of an experiment."""
    with experiment_users(log, experiment, gain) as read:
        return verdict_of(read, log, experiment, gain)


def verdict_of(read: ExperimentUsers, log: DecisionLog, experiment: Experiment, gain: Gain) -> dict[str, Any]:
    """Compute the verdict on an experiment from the sums of its users.

    Returns:
        A JSON-ready dict. The key `challengers` has the result of each challenger, and the top level repeats the result
        of the leading challenger.
    """
    primary, guardrails, wanted = experiment.metrics.primary, experiment.metrics.guardrails, experiment.minimum_effect
    challengers = [arm.name for arm in experiment.arms if arm.name != INCUMBENT]
    shares = ErrorShares.of(experiment.alpha, len(challengers), len(guardrails))
    every_stage = shares_of_stages(experiment)
    left_out, models, overridden, of_stages = read.counted

    def compared(users: Users) -> dict[str, Comparison]:
        return {
            name: Comparison(users, name, gain, log.budget_per_decision, shares.primary, read.covariates)
            for name in challengers
        }

    with_changed = {} if left_out.keys().isdisjoint(CHANGED) else compared(read.users(changed=True))
    found = read.users()
    comparisons = compared(found)
    by_stage = np.stack([found.by_stage(arm) for arm in found.arms], -1)  # shape (stages, arms)
    users_of_stages = {
        stage: {arm: int(count) for arm, count in zip(found.arms, counts, strict=True) if arm in every_stage[stage]}
        for stage, counts in zip(found.stages, by_stage, strict=True)
        if counts.any()
    }
    users = [(counts, every_stage[stage]) for stage, counts in users_of_stages.items()]
    srm_p = srm_p_value(users, planned=len(every_stage))
    kinds = {kind for metric in (primary, *(each.name for each in guardrails)) for kind in outcomes_of(metric, gain)}
    secondary = _secondary(comparisons, experiment)
    verdicts, results = {}, {}
    for name, comparison in comparisons.items():
        lift, hours = comparison.lift(primary), comparison.hours(of_stages)
        other = with_changed.get(name)
        late = replace(comparison, with_late=True) if found.late else None
        every = [each for each in (comparison, other, late) if each is not None]
        checks = _checks(experiment, every, shares)
        futile = wanted is not None and all(rules_out(each.lift(primary, above=wanted)) for each in every)
        verdicts[name] = reach_verdict(
            lift,
            srm_p=srm_p,
            guardrails=checks,
            crossed_share=found.crossed / max(found.all_users, 1),
            late_gap=comparison.late_gap(kinds),
            unbalanced=comparison.unbalanced(SRM_ALARM / len(challengers)),
            hours=hours,
            min_hours=experiment.min_runtime_hours,
            with_changed=None if other is None else other.lift(primary),
            with_late=None if late is None else late.lift(primary),
            ruled_out=wanted if futile else None,
            challenger=name,
        )
        remarks = models.said + _remarks(found, overridden, experiment, (name, INCUMBENT)) if found.all_users else ""
        reason = verdicts[name].reason if found.all_users else _nothing_counts(left_out)
        results[name] = {
            "lift": lift.value,
            "lift_ci": lift.ci,
            "lift_ci_fixed": lift.ci_fixed,
            "relative_lift": lift.relative,
            "effective_users": lift.effective_users,
            "adjustment": comparison.adjustment(primary),
            "money": _money(comparison, primary),
            "futile": None if wanted is None else futile,
            "hours": hours,
            "guardrails": [asdict(check) for check in checks],
            "secondary": secondary[name],
            "verdict": verdicts[name].token,
            "code": reason.code,
            "values": reason.values,
            "reason": reason + remarks,
        }
    # An arm with weight 0 gets no more users, so do not wait for it.
    serving = {arm.name: verdicts[arm.name] for arm in experiment.arms if arm.name in verdicts and arm.weight > 0}
    challenger = leading(serving or verdicts, {name: one.lift(primary) for name, one in comparisons.items()})
    result = {
        "experiment": experiment.name,
        "stage": experiment.stage,
        "stages": list(users_of_stages),
        "metric": primary,
        **units_in(primary, experiment.metrics.names, gain),
        "alpha": experiment.alpha,
        "confidence": 1.0 - shares.primary,
        "weighted": log.weights is not None,
        "budget_per_decision": log.budget_per_decision,
        "users": found.count(*found.arms),
        "moved_users": found.moved,
        "arms": {name: _arm(found, name, primary, gain, log.budget_per_decision) for name in found.arms},
        "users_of_stages": users_of_stages,
        "srm_p": srm_p,
        "multiple_exposure_users": found.crossed,
        "left_out": left_out,
        "overridden_users": overridden,
        "heavy_users": [{"arm": arm, "share": share} for arm, share in found.heavy],
        "late_outcomes": found.late,
        "models": models.digests,
        "challenger": challenger,
        "challengers": results,
        **results[challenger],
    }
    # JSON has no NaN or infinity, so orjson writes null.
    plain: dict[str, Any] = orjson.loads(orjson.dumps(result, option=orjson.OPT_SERIALIZE_NUMPY))
    return plain


def units_in(primary: str, names: Iterable[str], gain: Gain) -> dict[str, Any]:
    """Return a verdict's fields with the units of its numbers; `names` are all metrics of the file."""
    every = dict.fromkeys((*names, *of_primary(primary), COST))
    return {
        "units": {name: unit_of(name, gain) for name in every},
        "total_units": {total_of(primary): gain_of(primary, gain).unit, "cost": gain.units.money},
        "currency": gain.units.money,
    }


def _checks(experiment: Experiment, comparisons: Sequence[Comparison], shares: ErrorShares) -> list[GuardrailCheck]:
    """Check the guardrails. If comparisons with other sets of decisions disagree, the state is "open"."""
    found = []
    for guardrail in experiment.metrics.guardrails:
        name, direction, margin = guardrail.name, guardrail.direction, guardrail.margin
        check, *others = (
            check_guardrail(name, each.lift(name), direction=direction, margin=margin, shares=shares)
            for each in comparisons
        )
        found.append(replace(check, state="open") if any(check.state != other.state for other in others) else check)
    return found


def _arm(found: Users, arm: str, primary: str, gain: Gain, budget: float | None) -> dict[str, Any]:
    """Collect an arm's figures over all stages: plain totals, and ratios with the users' weights."""
    per_decision, cost_per_decision = (ratio_of(found, arm, name, gain, budget) for name in (primary, COST))
    if not is_per_decision(primary):
        per_decision *= cost_per_decision
    per_cost = per_decision / cost_per_decision if cost_per_decision > 0 else math.nan
    each, per_spend = of_primary(primary)
    plain = tuple((f"plain:{name}", weight) for name, weight in gain_of(primary, gain).terms)
    counts = {name: found.of(arm, ((name, 1.0),)) for name in ("decisions", "evaluable", "exposures", "fallbacks")}
    weight, squares = (found.of(arm, ((name, 1.0),)) for name in (WEIGHT, "squared_weight"))
    return {
        "users": found.count(arm),
        **{name: int(count) for name, count in counts.items()},
        "totals": {total_of(primary): found.of(arm, plain), "cost": _spent(found, arm)},
        "capped_users": found.capped[arm],
        "effective_decisions": weight**2 / max(squares, 1e-300),
        "metrics": {each: per_decision, COST: cost_per_decision, per_spend: per_cost},
    }


def _spent(found: Users, arm: str) -> float:
    return found.of(arm, (("plain:cost", 1.0),))


def _nothing_counts(left_out: Mapping[str, int]) -> Message:
    own = Counter({reason: count for reason, count in left_out.items() if reason != "other_experiment"})
    if not own:
        return messages.NOTHING_LOGGED()
    ((reason, count),) = own.most_common(1)
    later = ". Run the verdict again later or, if the log has ended, give its end with --until TIME"
    shadow = ". Use mtorl experiment verdict --shadow"
    hint = {"unfinished_period": later, "immature": later, "not_randomised": shadow}.get(reason, "")
    return messages.NOTHING_COUNTS(count=count, why=plain_words.left_out(reason), hint=hint)


def _remarks(found: Users, overridden: int, experiment: Experiment, arms: Collection[str]) -> str:
    remarks = []
    if found.late:
        hours = f"{experiment.metrics.outcome_hours:g}"
        remarks.append(
            f"{found.late:,} outcomes do not count: they arrived later than outcome_hours ({hours}) after the decision"
        )
    if overridden:
        remarks.append(f"of {overridden:,} users with an override, only decisions before the override count")
    remarks += [plain_words.heavy(arm, share) for arm, share in found.heavy if arm in arms]
    return "".join(f" ({remark})" for remark in remarks)


def _money(comparison: Comparison, primary: str) -> dict[str, Any]:
    lift = comparison.lift_per_cost(primary)
    spent = _spent(comparison.users, comparison.challenger)
    return {
        "metric": of_primary(primary)[1],
        "lift": lift.value,
        "lift_ci": lift.ci,
        "relative_lift": lift.relative,
        "spent": spent,
        "incremental": lift.value * spent,
        "incremental_ci": tuple(bound * spent for bound in lift.ci),
    }


def _secondary(comparisons: Mapping[str, Comparison], experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Compute the lifts of the secondary metrics, and which of them are significant.

    The false discovery rate holds for all challengers and metrics together.
    """
    names = experiment.metrics.secondary
    lifts = {(who, name): comparison.lift(name) for who, comparison in comparisons.items() for name in names}
    evidence = [log_e_value(one.value, one.se, one.effective_users, alpha=experiment.alpha) for one in lifts.values()]
    found: dict[str, dict[str, Any]] = {who: {} for who in comparisons}
    discovered = discoveries(evidence, experiment.alpha)
    for ((who, name), lift), log_e, there in zip(lifts.items(), evidence, discovered, strict=True):
        found[who][name] = {
            "lift": lift.value,
            "lift_ci": lift.ci,
            "relative_lift": lift.relative,
            "p": p_value(log_e),
            "significant": there,
        }
    return found
