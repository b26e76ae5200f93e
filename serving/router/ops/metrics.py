"""The router's Prometheus metrics. No label contains a user or campaign."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Literal, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from mtorl.policy.pacing import Pace, extremes
from serving.decision_log import Spool
from serving.decision_log.shipper import Shipper
from serving.ledger.contract import Balance, Room

Stage = Literal["features", "model", "ledger", "log"]
"""The stages of a decision, in the order in which they run."""

_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)

READY = Gauge("mtorl_ready", "1 once decisions can be made; until then, /health/ready has the reason")
_ARM = ["experiment", "arm"]
DECISIONS = Counter("mtorl_decisions", "Decisions answered", [*_ARM, "expose"])
FALLBACKS = Counter("mtorl_fallbacks", "Decisions that took the default action", [*_ARM, "reason"])
DRAWN_CHANNELS = Counter(
    "mtorl_drawn_channels", "Draws of a policy that could have drawn another channel", [*_ARM, "channel"]
)
DECISION_LATENCY = Histogram("mtorl_decision_latency_seconds", "From request to answer", _ARM, buckets=_SECONDS)
STAGE_LATENCY = Histogram("mtorl_stage_latency_seconds", "One stage of a decision", ["stage", *_ARM], buckets=_SECONDS)
FEATURES = Counter("mtorl_features", "Decisions with and without a stored history of the user", ["found"])
ARM_SILENT = Gauge("mtorl_arm_silent_seconds", "Time for which an arm has not answered; 0 while it answers", _ARM)
ARM_ANSWER_FAULTS = Counter("mtorl_arm_answer_faults", "Invalid answers of an arm", [*_ARM, "cause"])
ARM_MODEL_CHANGES = Counter("mtorl_arm_model_changes", "Changes of an arm's model during an experiment", _ARM)
SHADOW = Counter("mtorl_shadow_decisions", "Decisions of challengers at stage shadow, by result", [*_ARM, "result"])
REPEATED = Counter("mtorl_repeated_requests", "Decisions repeated for the same request id")
REFUSED = Counter("mtorl_refused_requests", "Requests that the gateway refused", ["status"])
ADMISSION_LIMIT = Gauge("mtorl_admission_limit", "Present limit of decision requests in flight")
IN_FLIGHT = Gauge("mtorl_in_flight_requests", "Decision requests in flight")
# For each arm, and for all experiments together (arm "*").
BUDGET_LIMIT = Gauge("mtorl_budget_limit", "Limit of the current period, currency units", [*_ARM, "period"])
BUDGET_SPENT = Gauge("mtorl_budget_spent", "Settled cost, currency units", [*_ARM, "period"])
BUDGET_RESERVED = Gauge("mtorl_budget_reserved", "Open reservations, currency units", [*_ARM, "period"])
BUDGET_EXCESS = Gauge("mtorl_budget_excess", "Cost above its reservation, currency units", [*_ARM, "period"])
BUDGET_OVERRUN = Gauge("mtorl_budget_overrun", "Largest overrun of an account, currency units", [*_ARM, "period"])
BUDGET_SPEND_RATIO = Gauge("mtorl_budget_spend_ratio", "Spent / limit of the arm's fullest account", _ARM)
BUDGET_PLANNED = Gauge("mtorl_budget_planned", "Spend that pacing plans until now, currency units", [*_ARM, "period"])
BUDGET_PACED = Gauge("mtorl_budget_paced", "Spent and reserved in paced accounts, currency units", [*_ARM, "period"])
_GAP = "of an account, divided by 5 % of its money or, if that is more, by the highest cost of 20 exposures"
BUDGET_AHEAD = Gauge("mtorl_budget_ahead_ratio", f"Largest (paced - planned) {_GAP}", [*_ARM, "period"])
BUDGET_BEHIND = Gauge("mtorl_budget_behind_ratio", f"Largest (planned - paced) {_GAP}", [*_ARM, "period"])
BUDGET_EXPIRED = Counter("mtorl_budget_expired", "Reservations released because no cost was reported in time")
PACING_LEADER = Gauge("mtorl_pacing_leader", "1 if this router paces for all routers, and publishes all accounts")
BUDGET_PRICE = Gauge("mtorl_budget_price", "Highest pacing price of the arm, gain per currency unit", _ARM)
OUTCOMES = Counter("mtorl_outcomes", "Outcomes received", ["kind", "status"])
SPOOL_RECORDS = Counter("mtorl_spool_records", "Records made durable in the decision log")
SPOOL_BYTES = Gauge("mtorl_spool_bytes", "Size of the decision log on the router's disk")
SPOOL_LIMIT = Gauge("mtorl_spool_limit_bytes", "Size beyond which nothing more is logged")
SPOOL_FREE = Gauge("mtorl_spool_free_bytes", "Bytes by which the decision log may grow, within limit and disk")
SPOOL_WRITABLE = Gauge("mtorl_spool_writable", "1 while records can be written to the decision log")
SPOOL_LOST = Gauge("mtorl_spool_lost_records", "Withdrawals of decisions that were lost since the start")
_STORE = ["store"]  # "redis", "file" or, on the log's disk, "file_beside_log"
LEDGER_FREE = Gauge("mtorl_ledger_free_bytes", "Bytes by which the ledger may grow, on its disk or in Redis", _STORE)
LEDGER_LIMIT = Gauge("mtorl_ledger_limit_bytes", "Size of the ledger's disk, or maxmemory of its Redis", _STORE)
SPOOL_PENDING = Gauge("mtorl_spool_pending_bytes", "Durable records that lake or sink have not acknowledged", ["to"])
SPOOL_OLDEST = Gauge("mtorl_spool_oldest_pending_seconds", "Age of the oldest pending record", ["to"])
SHIPPED = Counter("mtorl_shipped_records", "Records that lake or sink have acknowledged", ["to", "kind"])
SHIP_FAILURES = Counter("mtorl_ship_failures", "Failed attempts to ship", ["to", "reason"])
POISON = Counter("mtorl_poison_records", "Records that lake or sink refused and that were set aside", ["to", "kind"])
DROPPED = Counter("mtorl_dropped_records", "Records dropped because the sink's backlog was too large", ["to", "kind"])
EXPERIMENT_ENABLED = Gauge("mtorl_experiment_enabled", "1 unless the kill switch is on", ["experiment"])
EXPERIMENT_REFUSED = Gauge("mtorl_experiment_refused", "1 while a new version of an experiment is refused")

# Otherwise, Prometheus does not see the first increase.
for _kind in ("decision", "outcome", "shadow", "window"):
    for _to in ("lake", "sink"):
        SHIPPED.labels(_to, _kind)
        POISON.labels(_to, _kind)
    DROPPED.labels("sink", _kind)
for _found in ("yes", "no"):
    FEATURES.labels(_found)


def arm_labels(arm: str) -> tuple[str, str]:
    """Split an `Experiment.key` into the labels `experiment` and `arm`."""
    experiment, _, name = arm.rpartition("/")
    return experiment, name


M = TypeVar("M", Counter, Gauge, Histogram)


@cache  # resolving labels takes longer than counting
def of_arm(metric: M, arm: str, **labels: str) -> M:
    """Return the series of a metric for an `Experiment.key`."""
    experiment, name = arm_labels(arm)
    return metric.labels(experiment=experiment, arm=name, **labels)


_labels_shown: dict[Gauge, set[tuple[str, ...]]] = {}


def show(gauge: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
    """Set a gauge's values by labels, and remove all other labels."""
    for labels in _labels_shown.get(gauge, set()).difference(values):
        gauge.remove(*labels)
    _labels_shown[gauge] = set(values)
    for labels, value in values.items():
        gauge.labels(*labels).set(value)


def show_prices(by_arm: Mapping[str, float]) -> None:
    """Publish the prices of paced budgets."""
    show(BUDGET_PRICE, {arm_labels(arm): price for arm, price in by_arm.items()})


def show_overruns(by_arm: Mapping[tuple[str, str], float]) -> None:
    """Publish overruns of accounts by arm and period."""
    show(BUDGET_OVERRUN, {(*arm_labels(arm), period): above for (arm, period), above in by_arm.items()})


def show_budget(balances: Sequence[Balance]) -> None:
    """Publish limits, spend and reservations.

    An account is left out of the sums if its reservations also count in a wider account.
    """
    fullest: dict[tuple[str, ...], float] = {}
    for balance in balances:
        ratio = balance.spent / balance.limit if balance.limit else 0.0
        arm = arm_labels(balance.arm)
        fullest[arm] = max(ratio, fullest.get(arm, 0.0))
    show(BUDGET_SPEND_RATIO, fullest)
    shown = _apart(balances)
    show(BUDGET_LIMIT, {labels: sum(b.limit for b in apart) for labels, apart in shown.items()})
    show(BUDGET_SPENT, {labels: sum(b.spent for b in apart) for labels, apart in shown.items()})
    show(BUDGET_RESERVED, {labels: sum(b.reserved for b in apart) for labels, apart in shown.items()})
    show(BUDGET_EXCESS, {labels: sum(b.excess for b in apart) for labels, apart in shown.items()})


def show_pace(paces: Sequence[Pace]) -> None:
    """Publish spend and planned spend of paced accounts.

    Differences from the plan are not summed, because an account ahead of its plan would hide one that is behind.
    """
    shown = _apart(paces)
    show(BUDGET_PLANNED, {labels: sum(p.planned for p in apart) for labels, apart in shown.items()})
    show(BUDGET_PACED, {labels: sum(p.committed for p in apart) for labels, apart in shown.items()})
    furthest = {(*arm_labels(arm), period): gaps for (arm, period), gaps in extremes(paces).items()}
    show(BUDGET_AHEAD, {labels: ahead for labels, (ahead, _) in furthest.items()})
    show(BUDGET_BEHIND, {labels: behind for labels, (_, behind) in furthest.items()})


A = TypeVar("A", bound=Balance | Pace)


def _apart(accounts: Iterable[A]) -> dict[tuple[str, ...], list[A]]:
    """Return accounts without common reservations by arm and period, wider scopes first."""
    found: dict[tuple[str, ...], list[A]] = {}
    taken: set[tuple[str, ...]] = set()
    for account in sorted(accounts, key=lambda a: (a.channel != "*", a.campaign != "*")):
        labels = (*arm_labels(account.arm), account.period)
        wider: list[tuple[str, ...]] = [("*", "*"), (account.campaign, "*"), ("*", account.channel)]
        if account.campaign == "*":  # shares reservations with accounts for all channels of any campaign
            wider.append(("any", "*", ""))
        if not taken.intersection((*labels, *scope) for scope in wider):
            found.setdefault(labels, []).append(account)
            taken |= {(*labels, account.campaign, account.channel), (*labels, "any", account.channel, "")}
    return found


def show_ledger_room(room: Room | None, beside: bool) -> None:
    """Publish the ledger's free space. `beside`: whether ledger and log share a disk."""
    labels = () if room is None else ("file_beside_log" if beside else room.store,)
    show(LEDGER_FREE, {} if room is None else {labels: room.free})
    show(LEDGER_LIMIT, {} if room is None else {labels: room.limit})


def show_room(spool: Spool, room: int) -> None:
    """Publish whether the decision log can be written, and its free bytes (`room`)."""
    SPOOL_FREE.set(room)
    SPOOL_WRITABLE.set(spool.fault is None)
    SPOOL_LOST.set(spool.lost)


def show_log(spool: Spool, shippers: Mapping[str, Shipper]) -> None:
    """Publish the size of the decision log, and the progress of its shippers."""
    SPOOL_BYTES.set(spool.size)
    SPOOL_LIMIT.set(spool.max_bytes)
    counters = {"shipped": SHIPPED, "failed": SHIP_FAILURES, "poison": POISON, "dropped": DROPPED}
    for to, shipper in shippers.items():
        SPOOL_PENDING.labels(to).set(shipper.pending)
        SPOOL_OLDEST.labels(to).set(shipper.oldest_pending_seconds)
        for (what, label), number in shipper.take_tally().items():
            counters[what].labels(to, label).inc(number)
