"""An experiment with a ramp, and events of its history."""

from typing import Any, get_args

from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import Event, next_event
from mtorl.experiment.stage_machine import Phase
from tests.experiments import experiment

RAMP: dict[str, Any] = {
    "stages": [
        {"stage": "shadow", "hours": 1, "users": 10},
        {"stage": "5%", "hours": 2, "users": 20},
        {"stage": "50%", "hours": 3, "users": 30},
    ]
}
FILE: dict[str, Any] = experiment(
    "http://127.0.0.1:8085",
    name="mtorl-vs-rules",
    salt="a",
    layer="ads",
    arms=[
        {"name": "incumbent", "weight": 0.5, "policy": "baseline"},
        {"name": "challenger", "weight": 0.5, "model_digest": "29f665"},
    ],
    budgets=[{"campaign": "*", "channel": "*", "amount": 1000}],
    metrics={"primary": "gain_per_decision"},
    ramp=RAMP,
)
del FILE["stage"]


def made(**changes: Any) -> Experiment:
    return Experiment.from_dict({**FILE, **changes})


def after(*happened: Any, file: Experiment | None = None) -> list[Event]:
    """Return a person's events, 10 s apart. Each argument is a phase to move to, or another kind of event."""
    events: list[Event] = []
    for what in happened:
        kind, to = ("move", what) if what in get_args(Phase) else (what, None)
        who = {"by": "person", "reason": "a test", "challenger": "challenger" if to == "promoted" else None}
        events.append(next_event(events, file or made(), kind, at=10.0 * len(events), to=to, **who))  # type: ignore[arg-type]
    return events
