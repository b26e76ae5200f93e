"""Decisions of an arm, for a plan of its exploration."""

import json
from pathlib import Path
from typing import Any

import pytest

from features.collect.experiment_decisions import served_decisions
from mtorl.experiment.experiment import Experiment
from mtorl.log.touchpoints import LogError
from tests.experiments import experiment
from tests.features.collect.decision_logs import SPEC, decision, outcome, write
from tests.features.collect.small_model import WINDOW
from tests.features.collect.test_shadows import MINE, SURE

OURS = Experiment.from_dict(experiment("http://arms", name="first", salt="s"))


def ours(name: str, minutes: float, **changes: Any) -> dict[str, Any]:
    own = {**MINE, **SURE, "arm": "incumbent", "window": WINDOW, "expose": True, "fallback_reason": None}
    return decision(name, minutes, **{**own, **changes})


def test_an_arms_decisions_come_with_their_probabilities_and_windows(tmp_path: Path) -> None:
    decisions = [
        ours("d0", 0),
        ours("d1", 1, expose=False, withdrawn=True),
        ours("d2", 2, channel_probs={}),  # it does not say
        ours("d3", 3, arm="challenger"),
        ours("d4", 4, salt="old"),
        ours("d5", 5, expose=False),
        ours("d6", 2 * 24 * 60),  # its outcomes may still come
    ]
    log = write(tmp_path / "log", decisions, [outcome("c", "d0"), outcome("k", "d0", "click", 1.0)])
    rows = served_decisions(log, SPEC, OURS, "incumbent").set_index("timestamp").sort_index()
    assert rows["gain"].tolist() == [1.0, 0.0] and rows["exposed"].tolist() == [True, False]
    assert rows["channel_probs"].iloc[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert json.loads(rows["window"].iloc[0])["context"]["device"] == ["phone"]


def test_without_probabilities_there_is_nothing_to_plan_with(tmp_path: Path) -> None:
    log = write(tmp_path / "log", [ours("d", 0, channel_probs={}, exposure_probs={})], [outcome("c", "d")])
    with pytest.raises(LogError, match="has known probabilities"):
        served_decisions(log, SPEC, OURS, "incumbent")
    with pytest.raises(LogError, match="arm: 'nobody' is not one of incumbent, challenger"):
        served_decisions(log, SPEC, OURS, "nobody")
