import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import chi2_contingency

from mtorl.experiment import messages
from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.policy.schedule import Pacing
from mtorl.runtime.message import Words
from tests.experiments import experiment
from tests.messages import raises

FILE: dict[str, Any] = experiment(
    "http://incumbent",
    name="mtorl-vs-frequency",
    salt="s1",
    layer="channel-policy",
    arms=[
        {"name": "incumbent", "weight": 0.5},
        {"name": "challenger", "weight": 0.5, "endpoint": "http://challenger:8080/v1/models/c:predict"},
    ],
    budgets=[{"campaign": "*", "channel": "*", "amount": 100.0}, {"campaign": "c1", "channel": "video", "amount": 8}],
    metrics={
        "primary": "click_per_decision",
        "secondary": ["exposure_ratio"],
        "guardrails": [{"name": "cost_per_decision", "direction": "down", "margin": 0.1}],
    },
)
PHONES = {"when": {"device": "phone"}, "channel": "video"}
BASELINE = {"name": "mine", "weight": 0.5, "policy": "baseline"}
METRICS, GUARDRAIL = FILE["metrics"], FILE["metrics"]["guardrails"][0]
USERS = [f"u{i}" for i in range(4000)]


def make(**changes: Any) -> Experiment:
    return Experiment.from_dict({**copy.deepcopy(FILE), **changes})


def test_faults_name_fields_and_not_internals_of_the_library() -> None:
    """A missing budget amount also makes a default fail, but the message must name only the amount."""
    with pytest.raises(ExperimentError) as refused:
        make(budgets=[{"campaign": "*", "channel": "*"}], alpha=7)
    assert "missing field 'amount'" in str(refused.value) and "default factory" not in str(refused.value)
    assert str(refused.value).startswith("2 faults")


def challenger(**fields: Any) -> dict[str, Any]:
    return {"arms": [FILE["arms"][0], {**FILE["arms"][1], **fields}]}


ROWS = {"endpoint": None, "policy": [{"channel": "search"}, PHONES, {"channel": "search"}]}


@pytest.mark.parametrize(
    ("changes", "where", "words", "values"),
    [
        ({"layer_part": [0.5, 0.5]}, "layer_part", messages.LAYER_PART, {}),
        (challenger(name="outside"), "arms[1].name", messages.ARM_NAME, {"name": "outside"}),
        (challenger(name="*"), "arms[1].name", messages.ARM_NAME, {"name": "*"}),
        (challenger(name="a/b"), "arms[1].name", messages.ARM_NAME, {"name": "a/b"}),
        ({"overrides": {"qa-anna": "b"}}, "overrides: qa-anna", messages.NO_ARM, {"arms": "incumbent, challenger"}),
        (challenger(endpoint=None), "arms[1]", messages.ENDPOINT_OR_POLICY, {}),
        (challenger(policy="baseline"), "arms[1]", messages.ENDPOINT_OR_POLICY, {}),
        (challenger(endpoint=None, policy="baseline", model_name="m"), "", messages.NO_MODEL, {"fields": "model_name"}),
        (challenger(endpoint=None, policy=[]), "arms[1].policy", messages.LAST_ROW, {}),
        (challenger(**ROWS), "arms[1].policy", messages.ROW_NEVER_USED, {}),
        (challenger(weight=0.4), "arms", messages.WEIGHTS, {"total": 0.9}),
        (challenger(endpoint="challenger:80"), "arms[1].endpoint", messages.NOT_A_URL, {"endpoint": "challenger:80"}),
        (challenger(endpoint="http+unix:///sockets/models"), "arms[1].endpoint", messages.SOCKET_PATH, {}),
        (challenger(endpoint="http+unix://sockets"), "arms[1].endpoint", messages.SOCKET_PATH, {}),
        (challenger(endpoint="http+unix://"), "arms[1].endpoint", messages.SOCKET_PATH, {}),
        ({"arms": FILE["arms"][:1]}, "arms", messages.ARMS, {"names": ["incumbent"]}),
        ({"arms": [FILE["arms"][1], {**FILE["arms"][1], "name": "b"}]}, "arms", messages.ARMS, {}),
        ({"budgets": []}, "", messages.NO_BUDGET, {}),
        ({"budgets": FILE["budgets"][:1] * 2}, "budgets", messages.BUDGET_TWICE, {"other": "budgets[0]"}),
        (
            {"metrics": {**METRICS, "guardrails": [{**GUARDRAIL, "name": "costs"}]}},
            "metrics.guardrails[0].name", messages.UNKNOWN_METRIC, {"metric": "costs"},
        ),
        ({"metrics": {"primary": "cost_per_decision"}}, "metrics.primary", messages.NO_GAIN, {}),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(changes: Any, where: str, words: Words, values: dict[str, Any]) -> None:
    with raises(ExperimentError, words, **values) as refused:
        make(**changes)
    assert str(refused.value).startswith(where)


@pytest.mark.parametrize("text", ["[1, 2", "", "- a\n- b", "\x00", "start: 2026-02-30", "seed: 0x_", "[" * 5000])
def test_an_invalid_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    with pytest.raises(ExperimentError, match=r"experiment\.yaml"):
        Experiment.load(path)
    with pytest.raises(ExperimentError, match=r"missing\.yaml"):
        Experiment.load(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://c/", "http://c/v1/models/challenger:predict"),
        ("http://c:8080/v1/models/c:predict", "http://c:8080/v1/models/c:predict"),
        ("http+unix://%2Fsockets%2FModels", "http+unix://%2Fsockets%2FModels/v1/models/challenger:predict"),
        ("http+unix://%2Fsockets%2FModels/decide", "http+unix://%2Fsockets%2FModels/decide"),
    ],
)
def test_an_endpoint_is_a_server_or_a_whole_url(endpoint: str, url: str) -> None:
    assert Arm(name="challenger", weight=1.0, endpoint=endpoint).url == url


def test_a_growing_stage_moves_each_user_to_one_challenger_only() -> None:
    arms = [
        {"name": name, "weight": weight, "endpoint": "http://x"}
        for name, weight in (("b", 0.3), ("incumbent", 0.5), ("c", 0.2))
    ]
    stages = [make(arms=arms, stage=stage) for stage in ("shadow", "1%", "5%", "25%", "50%")]
    for user in USERS:
        path = [experiment.arm_of(user)[0] for experiment in stages]
        first = next((i for i, arm in enumerate(path) if arm != "incumbent"), len(path))
        assert len(set(path[first:])) <= 1, path
    last = Counter(stages[-1].arm_of(user)[0] for user in USERS)
    assert last["b"] / len(USERS) == pytest.approx(0.3, abs=0.03)
    assert stages[2].shares() == pytest.approx({"b": 0.03, "incumbent": 0.95, "c": 0.02})


def arms_and_places(experiment: Experiment) -> list[str]:
    return [experiment.arm_of(user)[0] for user in USERS]


def independent(one: list[str], other: list[str]) -> bool:
    table = pd.crosstab(pd.Series(one), pd.Series(other))
    return bool(chi2_contingency(table).pvalue > 0.001)


def test_a_growing_part_keeps_the_arms_of_its_users() -> None:
    small, large = (arms_and_places(make(layer_part=part)) for part in ([0.25, 0.5], [0.25, 0.75]))
    assert all(a in ("outside", b) for a, b in zip(small, large, strict=True))


@pytest.mark.parametrize("part", [[0, 1], [0.2, 0.7]])
def test_two_layers_are_independent_even_with_one_salt(part: list[float]) -> None:
    one = arms_and_places(make(layer="channels", layer_part=part))
    assert independent(one, arms_and_places(make(layer="prices", layer_part=part)))
    assert not independent(one, arms_and_places(make(layer="channels", layer_part=part)))


def test_successive_experiments_are_independent_even_with_one_salt() -> None:
    """Otherwise, the second experiment would get groups that the first one treated differently."""
    assert independent(arms_and_places(make(name="one")), arms_and_places(make(name="other")))


def test_users_outside_get_the_incumbent_and_a_separate_budget() -> None:
    experiment = make(layer_part=[0, 0.25], stage="50%")
    assert {experiment.arm_of(user) for user in USERS} == {("outside", 1.0), ("incumbent", 0.5), ("challenger", 0.5)}
    assert experiment.arm("outside") == experiment.arm("incumbent")
    limits = {account.arm: account.limit for account in experiment.accounts() if account.campaign == "*"}
    assert limits == {"*": 100.0, "incumbent": 12.5, "challenger": 12.5, "outside": 75.0}


@pytest.mark.parametrize("changes", [{"enabled": False}, {"stage": "shadow"}])
def test_shadow_and_kill_switch_send_all_users_to_the_incumbent(changes: dict[str, Any]) -> None:
    experiment = make(**changes)
    assert {experiment.arm_of(user) for user in USERS[:200]} == {("incumbent", 1.0)}
    limits = {a.arm: a.limit for a in experiment.accounts() if a.campaign == "*"}
    assert limits == {"*": 100, "incumbent": 100, "challenger": 0}


def test_a_stage_never_exceeds_the_final_weights() -> None:
    arms = [{**FILE["arms"][0], "weight": 0.9}, {**FILE["arms"][1], "weight": 0.1}]
    assert make(arms=arms).shares() == pytest.approx({"incumbent": 0.9, "challenger": 0.1})


@pytest.mark.parametrize(
    ("period", "said", "paced"),
    [
        ("day", {}, Pacing()),
        ("total", {}, None),
        ("day", {"pacing": None}, None),
        ("hour", {"pacing": {"price": 0.3}}, Pacing(price=0.3)),
    ],
)
def test_a_budget_with_a_period_is_paced_unless_the_file_says_otherwise(period: str, said: Any, paced: Any) -> None:
    budget = {"campaign": "*", "channel": "*", "amount": 8.0, "period": period, **said}
    found = {account.arm: account.pacing for account in make(budgets=[budget]).accounts()}
    assert found == {"*": None, "incumbent": paced, "challenger": paced}


def test_budgets_are_split_as_users_are() -> None:
    assert make(stage="25%").accounts() == [
        ("*", "*", "*", 1.0, 100.0, "total", "UTC", None),
        ("*", "c1", "video", 1.0, 8.0, "total", "UTC", None),
        ("incumbent", "*", "*", 0.75, 75.0, "total", "UTC", None),
        ("incumbent", "c1", "video", 0.75, 6.0, "total", "UTC", None),
        ("challenger", "*", "*", 0.25, 25.0, "total", "UTC", None),
        ("challenger", "c1", "video", 0.25, 2.0, "total", "UTC", None),
    ]


def test_a_budgets_day_follows_its_time_zone() -> None:
    budget = {"campaign": "*", "channel": "*", "amount": 1, "period": "day"}
    accounts = make(budgets=[{**budget, "timezone": "America/Sao_Paulo"}]).accounts()
    assert {account.timezone for account in accounts} == {"America/Sao_Paulo"}
    for name in ("Europe/Nowhere", "Europe", "../etc/passwd", "", "CEST"):
        with pytest.raises(ExperimentError, match=r"budgets\[0\].timezone"):
            make(budgets=[{**budget, "timezone": name}])


def test_the_word_none_means_null() -> None:
    """`kubectl apply` removes a null, which would select the default."""
    budget = {"campaign": "*", "channel": "*", "amount": 1, "period": "day"}
    for word in (None, "none"):
        fields = {"metrics": {"primary": "click_per_decision", "outcome_hours": word}}
        made = Experiment.from_dict({**FILE, **fields, "budgets": [{**budget, "pacing": word}]})
        assert made.metrics.outcome_hours is None and made.budgets[0].pacing is None
    with pytest.raises(ExperimentError, match="outcome_hours"):
        Experiment.from_dict({**FILE, "metrics": {"primary": "click_per_decision", "outcome_hours": "never"}})
