"""Tests of how a router gets experiments from operators that answer, are down, or send invalid data."""

import json
import os
import time
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtorl.experiment.budget_table import BudgetTable
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.runtime.http import Answer, StatusError
from serving.router import messages
from serving.router.ops import operator_feed
from serving.router.ops.health import Health
from serving.router.ops.live_experiments import ExperimentFiles, LiveExperiments
from serving.router.ops.operator_feed import OperatorFeed
from tests.experiments import experiment
from tests.messages import assert_says
from tests.serving.router_fixtures import SPEC, only


def text(**changes: Any) -> str:
    return yaml.safe_dump(experiment("http://127.0.0.1:9", **changes))


def answer(*texts: str) -> str:
    return json.dumps({f"{number}.yaml": text for number, text in enumerate(texts)})


class FakeOperator:
    def __init__(self, address: str) -> None:
        self.address = address
        self.answer: str | int = answer(text())
        self.said = b""
        """The body of an error answer."""
        self.leads = True
        self.gone = False
        self.asked: list[dict[str, Any]] = []

    def reply(self, has: dict[str, Any]) -> Answer:
        if self.gone:
            raise ConnectionRefusedError
        self.asked.append(has)
        if isinstance(self.answer, int) and self.answer != 204:
            raise StatusError(self.answer, self.said)
        headers = HTTPMessage()
        headers["mtorl-leads"] = str(self.leads).lower()
        return Answer(200, headers, self.answer.encode()) if isinstance(self.answer, str) else Answer(204, headers, b"")


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> list[FakeOperator]:
    """Return two fake operators, of which the second leads. test_http.py tests real requests."""
    made = [FakeOperator(address) for address in ("127.0.0.1:8", "127.0.0.1:9")]

    def send(url: str, has: dict[str, Any], seconds: float) -> Answer:
        assert url.endswith("/v1/in-force") and seconds == 2.0
        return next(one for one in made if one.address in url).reply(has)

    monkeypatch.setattr(operator_feed, "_SILENT_SECONDS", -1.0)
    monkeypatch.setattr(operator_feed, "send_request", send)
    return made


@pytest.fixture
def operator(operators: list[FakeOperator]) -> FakeOperator:
    return operators[-1]


def feed_of(operator: FakeOperator, folder: Path) -> OperatorFeed:
    return OperatorFeed(
        f"http://{operator.address}", ExperimentFiles(folder / "mounted"), folder / "last-good", "router-0"
    )


@pytest.fixture
def feed(operator: FakeOperator, tmp_path: Path) -> OperatorFeed:
    return feed_of(operator, tmp_path)


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def live(feed: OperatorFeed, health: Health, tmp_path: Path) -> LiveExperiments:
    return LiveExperiments(feed, SPEC, health, tmp_path / "last-good")


def written(folder: Path, content: str, at: float, name: str = "0.yaml") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    os.utime(folder / name, (at, at))


def told(feed: OperatorFeed, operator: FakeOperator | None = None, said: str | int = 204) -> Experiment:
    """Poll once and return the received experiment. `operator` answers with `said` from now on."""
    if operator is not None:
        operator.answer = said
    (content,) = feed.texts({"test": "version"}, False).values()
    return Experiment.from_yaml(content)


def test_a_poll_sends_the_active_versions_and_applies_the_answer(operator: FakeOperator, live: LiveExperiments) -> None:
    assert only(live).enabled and operator.asked == [{"router": "router-0", "has": {}, "everything": False}]
    before = only(live).version
    operator.answer = answer(text(enabled=False))
    assert live.refresh() and not only(live).enabled
    assert operator.asked[-1]["has"] == {"test": before}
    operator.answer = 204
    assert not live.refresh() and not only(live).enabled


def test_the_leader_is_preferred_and_without_it_another_operator_counts(
    operators: list[FakeOperator], operator: FakeOperator, feed: OperatorFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operators' host name has several addresses in any order, one of which does not answer."""
    other, gone = operators[0], FakeOperator("127.0.0.1:7")
    gone.gone, other.leads = True, False
    operators.append(gone)
    addresses = [gone.address, other.address, operator.address]
    monkeypatch.setattr(operator_feed, "_addresses", lambda url: addresses)
    other.answer = answer(text(salt="older"))
    for _ in range(2):
        assert told(feed).salt == "s" and operator.asked[-1]["has"] == {"test": "version"}
        addresses.reverse()
    before = len(other.asked)
    addresses.sort(key=lambda one: one != operator.address)
    told(feed)
    assert len(other.asked) == before, "the leader answered first"
    operator.gone = True
    assert not told(feed, other, answer(text(enabled=False))).enabled, "a kill switch applies without a leader"
    other.said = b'{"error": "the API server is away"}'
    assert not told(feed, other, 503).enabled


def test_the_operators_name_is_resolved_to_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", ("10.0.0.1", 8080)), (0, 0, 0, "", ("fd00::1", 8080, 0, 0))]
    monkeypatch.setattr("socket.getaddrinfo", lambda host, port, **_: found if (host, port) == ("op", 8080) else [])
    url = operator_feed.urlsplit("http://op:8080/v1/in-force")
    assert operator_feed._addresses(url) == ["10.0.0.1:8080", "[fd00::1]:8080"]


def test_experiments_are_added_and_removed_and_an_invalid_one_affects_no_other(
    operator: FakeOperator, live: LiveExperiments, health: Health, tmp_path: Path
) -> None:
    def tell(*texts: str) -> dict[str, bool]:
        operator.answer = answer(*texts)
        live.refresh()
        return {one.name: one.enabled for one in live.experiments}

    first, second = text(layer_part=[0.0, 0.5]), text(name="second", layer_part=[0.5, 1.0])
    assert tell(first, second) == {"test": True, "second": True}
    assert tell(first, text(name="second", layer_part=[0.5, 1.0], enabled=False)) == {"test": True, "second": False}
    assert tell("alpha: 7", second) == {"test": True, "second": True} and live.refused
    assert_says(health.problems["experiment"][0], messages.EXPERIMENT_REFUSED)
    assert tell(first, second) == {"test": True, "second": True} and not live.refused
    assert health.parts["experiment"] == "ok", "returning to the active experiment ends the refusal"
    assert operator.asked[-1]["everything"], "after a refusal, the router requests all experiments"
    swapped = text(layer_part=[0.5, 1.0]), text(name="second", layer_part=[0.0, 0.5])
    assert tell(*swapped) == {"test": True, "second": True}, "both change at once"
    assert [one.name for one in live.experiments] == ["second", "test"]
    assert tell(first) == {"test": True}
    assert [file.name for file in (tmp_path / "last-good").iterdir()] == ["0.yaml"]


def test_a_silent_operator_changes_nothing(operator: FakeOperator, feed: OperatorFeed, tmp_path: Path) -> None:
    told(feed)
    written(tmp_path / "mounted", text(salt="old"), at=1_000_000)
    assert told(feed, operator, 503).salt == "s", "the mounted file is older than the operator's answer"
    written(tmp_path / "mounted", text(enabled=False), at=4_000_000_000)
    assert not told(feed).enabled, "a person has edited the ConfigMap"
    assert told(feed, operator, answer(text(salt="new"))).salt == "new"
    # The operator's last answer wins over a newer file, because a kubelet may mount an old ConfigMap late.
    told(feed, operator, answer(text(enabled=False)))
    written(tmp_path / "mounted", text(), at=time.time())
    time.sleep(0.01)
    for status in (204, 503):
        assert not told(feed, operator, status).enabled


@pytest.mark.parametrize(("mounted_at", "salt"), [(1_000_000, "kept"), (3_000_000, "mounted")])
def test_a_start_without_an_operator_uses_the_newest_file(
    operator: FakeOperator, tmp_path: Path, mounted_at: float, salt: str
) -> None:
    operator.answer = 503
    written(tmp_path / "last-good", text(salt="kept"), at=2_000_000)
    written(tmp_path / "mounted", text(salt="mounted"), at=mounted_at)
    assert told(feed_of(operator, tmp_path)).salt == salt


def test_a_start_without_any_experiment_fails_with_the_reason(operator: FakeOperator, tmp_path: Path) -> None:
    operator.answer, operator.said = 503, b'{"error": "no object"}'
    with pytest.raises(ExperimentError, match=r"http://127\.0\.0\.1:9/v1/in-force says: no object"):
        feed_of(operator, tmp_path).texts({}, False)


@pytest.mark.parametrize("rubbish", ["{", "a: 1", "\x00", "[" * 5000])
def test_rubbish_changes_nothing(operator: FakeOperator, live: LiveExperiments, health: Health, rubbish: str) -> None:
    for said in (rubbish, json.dumps([rubbish]), json.dumps({"../x.yaml": rubbish}), json.dumps({"0.yaml": 1})):
        operator.answer = said
        assert not live.refresh() and health.parts["experiment"] == "ok", "an unreadable answer is ignored"
    operator.answer = answer(rubbish)
    assert not live.refresh() and only(live) == Experiment.from_dict(yaml.safe_load(text()))
    (problem,) = health.problems["experiment"]
    assert_says(problem, messages.EXPERIMENT_REFUSED)
    assert problem.startswith("0.yaml: ")


def test_an_off_file_works_even_if_the_budget_table_is_invalid(
    operator: FakeOperator, feed: OperatorFeed, tmp_path: Path, health: Health
) -> None:
    (tmp_path / "mounted").mkdir()
    table = tmp_path / "mounted" / "budgets.csv"
    table.write_text("campaign,channel,amount\nspring,*,100\n")
    digest = BudgetTable("budgets.csv", table.read_bytes()).digest
    text = yaml.safe_dump(experiment("http://x", budgets=[], budget_table=f"budgets.csv#{digest}"))
    operator.answer = json.dumps({"test.yaml": text})
    live = LiveExperiments(feed, SPEC, health, tmp_path / "last-good")
    assert only(live).enabled and only(live).all_budgets[0].campaign == "spring"
    table.write_text("campaign,channel,amount\nspring,*,1\n")
    assert not live.refresh() and live.refused, "the table does not match its digest, so the active one stays"
    assert only(live).all_budgets[0].amount == 100
    operator.answer = json.dumps({"test.yaml": text, "test.off": ""})
    assert live.refresh() and not only(live).enabled and only(live).all_budgets[0].amount == 100
    table.write_text("campaign,channel,amount\nspring,*,100\n")
    operator.answer = json.dumps({"test.yaml": text})
    assert live.refresh() and only(live).enabled and not live.refused
    operator.gone = True
    table.unlink()
    again = LiveExperiments(feed_of(operator, tmp_path), SPEC, health, tmp_path / "last-good")
    assert only(again) == only(live), "a restart loads the kept experiment and table"
