"""Example experiments in every state, for the tests of their page and gauges."""

from datetime import UTC, datetime
from typing import Any

from monitoring.experiments.document import ArmTraffic, ChannelMix, Newest, Settled, Spend, Traffic, View
from monitoring.experiments.findings import Findings
from monitoring.experiments.view import experiment_view
from monitoring.messages import NOTHING_COUNTS, SILENT
from monitoring.plain_words import left_out
from monitoring.verdict.verdict import units_in
from mtorl.experiment import messages
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import Event, next_event, state_of
from mtorl.experiment.stage_machine import ArmEvidence, Evidence, in_force
from mtorl.log.gain import Gain
from mtorl.runtime.message import Message, prefixed
from tests.experiments import experiment as content

START = 1_795_000_000.0  # 2026-11-18
HOUR = 3600.0
_MOVE = "mtorl experiment move channel-policy.yaml"
COMMANDS = {"run": "mtorl experiment run channel-policy.yaml", "start": f"{_MOVE} shadow", "resume": f"{_MOVE} on"}
COMMANDS |= {"promote": f"{_MOVE} promoted", "rollback": f'{_MOVE} "rolled back"'}
RAMP: dict[str, Any] = {
    "stages": [
        {"stage": "shadow", "hours": 24, "users": 1000},
        {"stage": "1%", "hours": 48, "users": 200},
        {"stage": "5%", "hours": 72, "users": 500},
        {"stage": "50%", "hours": 336, "users": 5000},
    ]
}
MOVED = 402
"""Number of users who got the incumbent before the challenger, in views with many users."""
CHANNELS = ("search", "display", "video", "social")
BETTER = messages.SHIP(low=0.0124)
TOO_FEW = messages.TOO_FEW_USERS(needed=100, challenger="challenger", users=12, others=80)


def made(**changes: Any) -> Experiment:
    fields = {
        "name": "mtorl-vs-rules",
        "arms": [
            {"name": INCUMBENT, "weight": 0.5, "policy": "baseline"},
            {"name": "challenger", "weight": 0.5, "endpoint": "http://user:secret@127.0.0.1:8085"},
        ],
        "budgets": [
            {"campaign": "*", "channel": "*", "amount": 20_000.0},
            {"campaign": "*", "channel": "video", "amount": 900.0, "period": "day"},
        ],
        "metrics": {
            "primary": "click_per_decision",
            "secondary": ["exposure_ratio", "conversion_per_decision"],
            "guardrails": [{"name": "cost_per_decision", "direction": "down", "margin": 0.02}],
            "outcome_hours": 24,
        },
        "min_runtime_hours": 168,
        "owner": "ads-platform",
        "hypothesis": "More clicks for the same money, since the channel follows what a user did before.",
        "planned_end": "2026-12-20T00:00:00Z",
        "ramp": RAMP,
        **changes,
    }
    made = content("http://127.0.0.1:8085", **fields)
    if fields["ramp"] is not None:
        made.pop("stage")
    return Experiment.from_dict(made)


def history(experiment: Experiment, *steps: tuple[float, str, dict[str, Any]]) -> list[Event]:
    """Return events from steps: hours since the start, then "kill", "resume" or the new stage, then other fields."""
    events: list[Event] = []
    for hours, what, more in steps:
        kind: Any = what if what in ("kill", "resume") else "move"
        own = {"by": "ramp", "reason": "72 hours are over, and no check failed", **more}
        to: Any = what if kind == "move" else None
        events.append(next_event(events, experiment, kind, at=START + HOUR * hours, to=to, **own))
    return events


def verdict(
    token: str, reason: str, arms: dict[str, int], lift: float, stage: str = "50%", **changes: Any
) -> dict[str, Any]:
    """Return a verdict in which the first challenger has this token and reason."""
    total = sum(arms.values())
    challengers = [name for name in arms if name != INCUMBENT]
    moved = MOVED if min(arms.values()) > 2 * MOVED else 0

    def known(low: float, high: float) -> list[float | None]:
        return [low, high] if total > 200 else [None, None]

    def secondary(lift: float, half: float) -> dict[str, Any]:
        return {"lift": lift, "lift_ci": known(lift - half, lift + half), "p": 0.2, "significant": False}

    def challenger(number: int) -> dict[str, Any]:
        low, high = known(-0.003, 0.011)
        check = {"name": "cost_per_decision", "harm": 0.004, "lower": low, "upper": high, "margin": 0.02}
        said = messages.UNDECIDED(low=-0.004, high=0.041) if number else prefixed("", reason)
        own, half = lift - 0.012 * number, total**-0.5 if total else 0.0
        return {
            "lift": own if total else None,
            "lift_ci": known(own - half, own + half),
            "relative_lift": own / 0.0674 if total else None,
            "effective_users": float(total),
            "hours": 96.0 if stage == "5%" else 312.0,
            "guardrails": [{**check, "state": "held" if total > 200 else "open"}],
            "secondary": {
                "exposure_ratio": secondary(-0.031, 0.04),
                "conversion_per_decision": secondary(0.0011, 0.002),
            },
            "verdict": "inconclusive" if number else token,
            "reason": said,
            "code": said.code,
            "values": said.values,
        }

    results = {name: challenger(number) for number, name in enumerate(challengers)}
    return {
        "experiment": "mtorl-vs-rules",
        "stage": stage,
        **units_in("click_per_decision", ("exposure_ratio", "conversion_per_decision"), Gain.of_spec("click")),
        "metric": "click_per_decision",
        "alpha": 0.05,
        "confidence": 0.955,
        "users": total - moved,
        "moved_users": moved,
        "arms": {name: _arm(count, 0.0674 + (lift if name != INCUMBENT else 0.0)) for name, count in arms.items()},
        "users_of_stages": {stage: arms},
        "srm_p": 0.84,
        "multiple_exposure_users": 0,
        "left_out": {"immature": 1_204, "not_randomised": 8_840, "repeated": 12},
        "heavy_users": [],
        "late_outcomes": 7,
        "challenger": challengers[0],
        "challengers": results,
        **results[challengers[0]],
        **changes,
    }


def _arm(users: int, gain: float) -> dict[str, Any]:
    decisions, cost = users * 5, 0.2294
    metrics = {"click_per_decision": gain, "click_per_cost": gain / cost, "cost_per_decision": cost}
    return {
        "users": users,
        "decisions": decisions,
        "exposures": round(decisions * 0.65),
        "fallbacks": decisions // 900,
        "totals": {"click": decisions * gain, "cost": decisions * cost},
        "metrics": metrics if users else dict.fromkeys(metrics),
    }


def traffic(arms: dict[str, int], shadow: bool = False) -> Traffic:
    def of_arm(users: int, *shares: float) -> ArmTraffic:
        decided = {channel: round(5 * users * share) for channel, share in zip(CHANNELS, shares, strict=True)}
        mix = {name: ChannelMix(decisions=count, exposures=round(0.65 * count)) for name, count in decided.items()}
        counts = {"decisions": 5 * users, "exposures": round(3.25 * users), "fallbacks": 5 * users // 900}
        return ArmTraffic(**counts, channels=mix)  # type: ignore[typeddict-item]

    shares = {name: (0.46, 0.3, 0.14, 0.1) if name == INCUMBENT else (0.28, 0.17, 0.38, 0.17) for name in arms}
    return Traffic(shadow=shadow, arms={name: of_arm(users, *shares[name]) for name, users in arms.items()})


def newest(hours: float, age: float = 240.0, silence: str | None = None) -> Newest:
    at = datetime.fromtimestamp(START + HOUR * hours - age, UTC).isoformat(timespec="seconds")
    return Newest(at=at, age_seconds=age, silence=silence)


def spend(serving: Experiment, share: float) -> list[Spend]:
    return [
        Spend(arm=account.arm, campaign=account.campaign, channel=account.channel, period=account.period,
              limit=account.limit, spent=share * account.limit, reserved=0.004 * account.limit)
        for account in serving.accounts()
    ]  # fmt: skip


def evidence(
    token: Any, reason: Message, users: dict[str, int], *, breached: tuple[Message, ...] = (), late: float = 0.031
) -> Evidence:
    arms = {name: ArmEvidence(count, 0.001, 0.03 if name == INCUMBENT else late) for name, count in users.items()}
    return Evidence(token, reason, next(name for name in users if name != INCUMBENT), breached, arms)


def view(
    experiment: Experiment,
    events: list[Event],
    hours: float,
    found: dict[str, Any] | None = None,
    users: dict[str, int] | None = None,
    **known: Any,
) -> View:
    serving = in_force(experiment, state_of(events, experiment))
    if found is not None and "evidence" not in known:
        reason = Message(found["reason"], found["code"], found["values"])
        known["evidence"] = evidence(found["verdict"], reason, users or {})
    if users is not None:
        known = {"newest": newest(hours), **known}
        known = {"traffic": traffic(users), "spend": spend(serving, 0.41), **known}
    return experiment_view(
        experiment, events, Findings(verdict=found, commands=COMMANDS, **known), START + HOUR * hours
    )


_KNOWN = {"token": "inconclusive", "reason": "too little to say", "challenger": "challenger", "breached": [],
          "arms": {INCUMBENT: {"users": 4210, "fallback_ratio": 0.001, "latency_seconds": 0.0304},
                   "challenger": {"users": 207, "fallback_ratio": 0.0, "latency_seconds": None}}}  # fmt: skip
_EARLY = {**_KNOWN, "effect": {"users": 4_417, "lift": 0.0094, "lift_ci": [-0.0410, 0.0598]}}
_LATER = {**_KNOWN, "effect": {"users": 6_210, "lift": 0.0187, "lift_ci": [-0.0026, 0.0400]}}
_WAY: tuple[tuple[float, str, dict[str, Any]], ...] = (
    (0, "shadow", {"by": "person", "reason": "agreed on Monday"}),
    (24, "1%", {"evidence": _KNOWN}),
    (72, "5%", {"evidence": _EARLY}),
    (144, "50%", {"reason": "72 hours at 5% are over", "evidence": _LATER}),
)


def on_the_way(experiment: Experiment, stages: int, *more: tuple[float, str, dict[str, Any]]) -> list[Event]:
    """Return the history of an experiment after its first `stages` stages and the events in `more`."""
    return history(experiment, *_WAY[:stages], *more)


def users_of(incumbent: int, **challengers: int) -> dict[str, int]:
    return {INCUMBENT: incumbent, **challengers}


def draft() -> View:
    return view(made(), [], 0.0)


def shadow() -> View:
    reason = NOTHING_COUNTS(count=8_840, why=left_out("not_randomised"), hint="")
    users = users_of(1768, challenger=713)
    found = verdict("inconclusive", reason, users_of(0, challenger=0), 0.0, "shadow", srm_p=1.0)
    return view(made(), on_the_way(made(), 1), 9.5, found, users, traffic=traffic(users, shadow=True))


def early(name: str = "mtorl-vs-rules", hours: float = 96, users: tuple[int, int] = (1893, 101), **known: Any) -> View:
    experiment, of_arms = made(name=name), users_of(users[0], challenger=users[1])
    reason = messages.TOO_EARLY(hours=96, needed=168)
    found = verdict("inconclusive", reason, of_arms, 0.012, "5%")
    return view(experiment, on_the_way(experiment, 3), hours, found, of_arms, **known)


def win() -> View:
    users = users_of(7212, challenger=7156)
    return view(made(), on_the_way(made(), 4), 500, verdict("ship", BETTER, users, 0.0225, segments=segments()), users)


def segments() -> dict[str, Any]:
    rows = [("phone", 9012, 0.031, [0.004, 0.058]), ("desktop", 4110, 0.009, [-0.035, 0.053]), (None, 61, 0.02, None)]
    lifts = [
        {"challenger": "challenger", "segment": name, "users": users, "decisions": 5 * users, "lift": lift,
         "lift_ci": ci}
        for name, users, lift, ci in rows
    ]  # fmt: skip
    return {"confidence": 0.998, "lifts": {"device": lifts}, "smaller": {"device": 31}}


def rolled_back() -> View:
    reason = messages.GUARDRAIL(metric="cost per decision", lower=0.0312, margin=0.02)
    users = users_of(3893, challenger=201)
    found = verdict("guardrail", reason, users, -0.004)
    breach = {"harm": 0.061, "lower": 0.0312, "upper": 0.0908, "state": "breached"}
    found["guardrails"][0].update(breach)
    end = (101, "rolled back", {"reason": f"challenger: {reason}"})
    return view(made(), on_the_way(made(), 3, end), 130, found, users)


def mismatch() -> View:
    users = users_of(7912, challenger=6156)
    reason = messages.SRM(p=2.1e-9, alarm=0.01)
    found = verdict("srm", reason, users, 0.02, srm_p=2.1e-9)
    return view(made(), on_the_way(made(), 4), 300, found, users)


def three_arms() -> View:
    arms = [
        {"name": INCUMBENT, "weight": 0.4, "policy": "baseline"},
        {"name": "mtorl", "weight": 0.3, "endpoint": "http://127.0.0.1:8085", "explore": {"share": 0.05}},
        {"name": "vendor-bidder", "weight": 0.3, "endpoint": "https://bidder.example.com/decide"},
    ]
    experiment = made(arms=arms, name="mtorl-and-a-vendor")
    users = users_of(4912, **{"mtorl": 3690, "vendor-bidder": 3701})
    reason = messages.GUARDRAILS_OPEN(metrics="cost_per_decision")
    found = verdict("inconclusive", reason, users, 0.0225)
    return view(experiment, on_the_way(experiment, 4), 300, found, users)


def late() -> View:
    slow = evidence(
        "inconclusive", messages.TOO_EARLY(hours=150, needed=168), users_of(9893, challenger=701), late=0.102
    )
    return early("slow-model", 150, (9893, 701), evidence=slow)


def skipped() -> View:
    """Return an experiment that a person moved from 1 % directly to 50 %."""
    experiment, users = made(name="in-a-hurry"), users_of(893, challenger=901)
    jump = (30, "50%", {"by": "person", "reason": "the campaign ends on Friday"})
    found = verdict("inconclusive", TOO_FEW, users, 0.01)
    return view(experiment, on_the_way(experiment, 2, jump), 40, found, users)


def silent() -> View:
    words = SILENT(silence="50 minutes", since="2026-11-22 10:16", usual="3 minutes")
    return early("nobody-asks", newest=newest(96, 3_000.0, words))


def killed() -> View:
    experiment, users = made(name="switched"), users_of(1893, challenger=101)
    off = (80, "kill", {"by": "person", "reason": "clicks are gone"})
    found = verdict("inconclusive", TOO_FEW, users, 0.01, "5%")
    return view(experiment, on_the_way(experiment, 3, off), 96, found, users)


def promoted() -> View:
    experiment, users = made(name="done"), users_of(7212, challenger=7156)
    end = (500, "promoted", {"by": "person", "reason": BETTER, "challenger": "challenger"})
    settled = Settled(done=True, reason="HandedOver", words="mtorl-incumbent serves what won")
    found, events = verdict("ship", BETTER, users, 0.0225), on_the_way(experiment, 4, end)
    return view(experiment, events, 1505, found, users, settled=settled)


STATES = {
    "draft": draft, "shadow": shadow, "early": early, "win": win, "rolled-back": rolled_back, "srm": mismatch,
    "three-arms": three_arms, "late": late, "skipped": skipped, "silent": silent, "killed": killed,
    "promoted": promoted,
}  # fmt: skip
