"""Tests that each fault of a log or a state is reported as what it is."""

import errno
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest

from cli.endings import HARM
from cli.monitor import exit_code
from monitoring.watch.check import run
from monitoring.watch.state import STATE_FILE, NotJudged, State, StateError
from monitoring.watch.stream_names import COLUMNS, GROUPS, LAST_HOURS
from mtorl.artifact.artifact import ArtifactError
from mtorl.log.dataset import Column
from tests.lakes import upload
from tests.monitoring.watch.market import Market, sample

pytestmark = pytest.mark.integration


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """Return a market with two days, the first of them already judged."""
    made = Market(tmp_path)
    made.live(1)
    state = made.check()
    assert {name for name, group in state.groups.items() if group.not_judged is None} == {COLUMNS, LAST_HOURS}
    made.live(1)
    return made


def newest(market: Market, name: str = "decisions") -> Path:
    return max((market.log / "arrived" / name).rglob("*.parquet"))


def edit(file: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(file)).to_parquet(file)


def in_context(**values: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return a function that sets values in each decision's context; `...` removes a column."""

    def change(text: str) -> str:
        context = json.loads(text) | values
        return json.dumps({name: value for name, value in context.items() if value is not ...})

    return lambda rows: rows.assign(context=rows["context"].map(change))


def why(state: State, group: str) -> NotJudged:
    found = state.groups[group].not_judged
    assert found is not None
    return found


def rewritten(change: Callable[[bytes], bytes], kind: str = "decisions") -> Callable[[Market], None]:
    def break_it(market: Market) -> None:
        newest(market, kind).write_bytes(change(newest(market, kind).read_bytes()))

    return break_it


def edited(change: Callable[[pd.DataFrame], pd.DataFrame], kind: str = "decisions") -> Callable[[Market], None]:
    def break_it(market: Market) -> None:
        for file in (market.log / "arrived" / kind).rglob("*.parquet"):
            edit(file, change)

    return break_it


UNREADABLE = {
    "empty": rewritten(lambda content: b""),
    "cut-off": rewritten(lambda content: content[: len(content) // 2]),
    # The data are overwritten, but the file's footer is intact.
    "damaged": rewritten(lambda content: content[:100] + bytes(len(content) - 6_100) + content[-6_000:]),
    "no-user": edited(lambda rows: rows.drop(columns="user_id")),
    "no-time": lambda market: edit(newest(market), lambda rows: rows.assign(event_time="noon")),
    "value-is-text": edited(lambda rows: rows.assign(value="much"), "outcomes"),
}


@pytest.mark.parametrize("break_it", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_log_is_not_judged_but_retried(break_it: Callable[[Market], None], market: Market) -> None:
    whole = {file: file.read_bytes() for file in market.log.rglob("*.parquet")}
    before = State.read(market.folder / STATE_FILE)
    break_it(market)
    for _ in range(2):
        state = market.check()
        for group in GROUPS:
            assert why(state, group).reason == "unreadable_log"
            assert why(state, group).text and "\n" not in why(state, group).text
        assert state.judged_until == before.judged_until
    assert state.streams == before.streams, "evidence must not change"
    for file, content in whole.items():
        file.write_bytes(content)
    mended = market.check()
    assert mended.judged_until is not None and mended.judged_until > before.judged_until  # type: ignore[operator]
    assert len(mended.streams["outcomes/gain_per_decision"].past) == 2
    assert mended.groups[LAST_HOURS].not_judged is None
    assert not [name for name in GROUPS if (fault := mended.groups[name].not_judged) and fault.reason != "learning"]


def test_a_context_that_is_no_object(market: Market) -> None:
    edit(newest(market), lambda rows: rows.assign(context="[1, 2"))
    state = market.check()
    assert why(state, COLUMNS).reason == why(state, LAST_HOURS).reason == "unreadable_log"
    assert "'[1, 2'" in why(state, COLUMNS).text
    assert why(state, "outcomes").reason == "learning"


def test_no_decisions(market: Market) -> None:
    day = newest(market)
    day.rename(day.with_suffix(".away"))
    state = market.check()
    for group in GROUPS:
        assert why(state, group).reason == "no_decisions" and "2025-03-04" in why(state, group).text
    day.with_suffix(".away").rename(day)
    assert why(market.check(), "outcomes").reason == "learning", "late data is judged now"
    # A day without decisions is skipped once a later day has been judged.
    market.next += 1
    assert why(market.check(), "outcomes").reason == "no_decisions"
    market.live(1)
    state = market.check()
    assert state.judged_until is not None and len(state.streams["outcomes/gain_per_decision"].past) == 3


@pytest.mark.parametrize(
    ("few", "groups"),
    [
        (lambda rows: rows.head(15), GROUPS),
        # With few users, only the incumbent's own measures cannot be judged.
        (lambda rows: rows.assign(arm=rows["arm"].where(rows["user_id"].str[-1] == "7", "outside")), ("decisions",)),
    ],
    ids=["all", "incumbent"],
)
def test_too_few_users(few: Callable[[pd.DataFrame], pd.DataFrame], groups: Sequence[str], tmp_path: Path) -> None:
    market = Market(tmp_path)
    market.live(1)
    edit(newest(market), few)
    state = market.check()
    assert {why(state, group).reason for group in groups} == {"too_few_users"}
    assert state.judged_until is not None, "no more data will come, so it counts as judged"


def test_outcomes_missing(market: Market) -> None:
    before = State.read(market.folder / STATE_FILE)
    for file in (market.log / "arrived" / "outcomes").rglob("*.parquet"):
        file.unlink()
    state = market.check()
    for group in ("outcomes", "performance"):
        assert why(state, group).reason == "no_outcomes" and "exposures" in why(state, group).text
    for stream in ("outcomes/gain_per_decision", "performance/incumbent/calibration"):
        assert state.streams[stream] == before.streams[stream]
    assert len(state.streams["decisions/incumbent/exposure_ratio"].past) == 2


def test_late_outcomes_delay_a_judgement_by_two_days(tmp_path: Path) -> None:
    market = Market(tmp_path)
    market.live(8)
    market.check()
    market.live(1)
    last = newest(market, "outcomes")
    whole = pd.read_parquet(last)
    whole.iloc[: len(whole) // 2].to_parquet(last)
    before = State.read(market.folder / STATE_FILE)
    state = market.check()
    for group in GROUPS:
        assert why(state, group).reason == "late_outcomes" and "are usual" in why(state, group).text
    assert state.judged_until == before.judged_until and state.streams == before.streams
    waited = market.folder.with_name("waited")
    shutil.copytree(market.folder, waited)
    whole.to_parquet(last)
    assert market.check().judged_until == market.night - timedelta(hours=2), "judged once complete"
    whole.iloc[: len(whole) // 2].to_parquet(last)
    found = run(market.watched, waited, market.night + timedelta(days=2))
    value = found.streams["outcomes/cost_per_decision"].past[-1].value
    assert value < 0.7 * found.streams["outcomes/cost_per_decision"].past[-2].value, "judged incomplete after two days"


def test_another_incumbent_model_restarts_learning(tmp_path: Path) -> None:
    market = Market(tmp_path)
    market.live(3)
    assert market.check().incumbent == "sha256:test"
    market.live(1)
    edit(newest(market), lambda rows: rows.assign(model_digest="sha256:new"))
    state = market.check()
    assert len(state.streams["decisions/incumbent/exposure_ratio"].past) == 1
    assert len(state.streams["outcomes/gain_per_decision"].past) == 4, "outcomes keep their history"


def test_future_times(market: Market) -> None:
    """A router's clock is a century ahead, so its decisions are missing from their period."""
    century = pd.Timedelta(36_525, "D")
    moved = newest(market)
    before, rows = moved.read_bytes(), pd.read_parquet(moved).drop(columns=["hour", "bucket"])
    ahead = rows.assign(event_time=rows["event_time"] + century, decision_id=[f"d{i}" for i in rows.index])
    upload(market.log, {"decision": ahead})
    moved.unlink()
    state = market.check()
    for group in GROUPS:
        assert why(state, group).reason == "future_times" and "clock" in why(state, group).text
    moved.write_bytes(before)
    newest(market).unlink()
    assert why(market.check(), "outcomes").reason == "learning"
    # A few decisions with future times must not stop the judgement of the others.
    upload(market.log, {"decision": ahead.head(6)})
    market.live(1)
    state = market.check()
    assert why(state, "outcomes").reason == "learning" and state.groups[COLUMNS].not_judged is None


@pytest.mark.parametrize(
    ("change", "summary"),
    [
        (in_context(device=None), "has no usable value"),
        (in_context(hour=...), "is missing"),
        (in_context(hour="noon"), "has no usable value"),
        (in_context(hour=1e300), "has no usable value"),
    ],
    ids=["null", "missing", "other-type", "too-large"],
)
def test_a_column_without_values_is_found_at_once(
    change: Callable[[pd.DataFrame], pd.DataFrame], summary: str, market: Market
) -> None:
    edit(newest(market), change)
    state = market.check()
    (alarm,) = state.alarms().values()
    assert alarm.kind == "data_quality" and summary in alarm.text
    market.live(1)
    assert not market.check().alarms(), "it has recovered"


def test_a_column_that_lost_its_values_within_the_day(market: Market) -> None:
    """The values of the last six hours show the loss before the day ends."""
    market.live(1)

    def since_18(rows: pd.DataFrame) -> pd.DataFrame:
        return in_context(placement=None)(rows).where(pd.to_datetime(rows["event_time"]).dt.hour >= 18, rows)

    edit(newest(market), since_18)
    state = market.check(market.night - timedelta(hours=2, minutes=5))
    assert state.broken.keys() == {"placement"} and "values missing" in state.broken["placement"].text


def test_a_new_column(market: Market) -> None:
    """A new context column is a fault only if the data set describes it but the model was trained without it."""
    edit(newest(market), in_context(weather="rain"))
    assert market.check().groups[COLUMNS].not_judged is None
    spec = market.watched.spec
    columns = (*spec.context, Column(name="weather", kind="categorical"))
    wider = replace(market.watched, spec=spec.replace(context=columns))
    market.live(1)
    state = run(wider, market.folder, market.night)
    assert why(state, COLUMNS).reason == "other_columns" and "other context columns" in why(state, COLUMNS).text
    assert why(state, "outcomes").reason == "learning"


def _unreadable_artifact(digest: str) -> Any:
    raise ArtifactError(f"{digest}: model.json is damaged")


@pytest.mark.parametrize(
    ("lost", "text"),
    [(lambda _: None, "sha256:test, was not found"), (_unreadable_artifact, "sha256:test: model.json is damaged")],
    ids=["missing", "damaged"],
)
def test_a_lost_model_leaves_columns_to_the_newest_readable_one(lost: Any, text: str, market: Market) -> None:
    state = run(replace(market.watched, sample_of=lost), market.folder, market.night)
    assert why(state, COLUMNS).reason == "no_model" and text in why(state, COLUMNS).text
    assert why(state, "outcomes").reason == "learning"

    def sample_of(digest: str | None) -> Any:
        return lost(digest) if digest is not None else market.watched.sample_of("sha256:test")

    market.live(1)
    state = run(replace(market.watched, sample_of=sample_of), market.folder, market.night)
    assert state.groups[COLUMNS].not_judged is None


def test_only_fallback_decisions(market: Market) -> None:
    edit(newest(market), lambda rows: rows.assign(model_digest=None, fallback_reason="model_error"))
    without_one = replace(market.watched, sample_of=lambda _: None)
    assert why(run(without_one, market.folder, market.night), COLUMNS).reason == "no_model"


def of_a_rule(rows: pd.DataFrame) -> pd.DataFrame:
    nothing = {"model_digest": None, "expected_reward": None, "feature_hash": None}
    return rows.assign(**nothing, model_name="rule").astype({"expected_reward": float, "feature_hash": "string"})


def test_a_platforms_own_rule_is_no_fault(tmp_path: Path) -> None:
    market = Market(tmp_path)
    market.live(1)
    edit(newest(market), of_a_rule)
    no_model = replace(market.watched, sample_of=lambda _: None)
    state = run(no_model, market.folder, market.night)
    reasons = {name: why(state, name).reason for name in GROUPS}
    nothing = dict.fromkeys((COLUMNS, "journeys", "performance"), "nothing_there")
    assert reasons == {**nothing, "decisions": "learning", "outcomes": "learning"}
    assert "rule" in why(state, COLUMNS).text


@pytest.mark.parametrize("shadow", [True, False], ids=["asked in the shadow", "not asked yet"])
def test_columns_of_a_challenger_are_judged_while_a_rule_decides(tmp_path: Path, shadow: bool) -> None:
    market = Market(tmp_path)
    market.live(1)
    decisions = newest(market)
    edit(decisions, of_a_rule)
    edit(decisions, in_context(device=None))
    if shadow:
        asked = pd.read_parquet(decisions)[["decision_id", "experiment", "event_time"]]
        upload(market.log, {"shadow": asked.assign(arm="challenger", model_digest="sha256:asked")})
    digests = {"sha256:asked": sample()} if shadow else {None: sample()}
    state = run(replace(market.watched, sample_of=digests.get), market.folder, market.night)
    (alarm,) = (alarm for alarm in state.alarms().values() if alarm.kind == "data_quality")
    assert alarm.text.startswith("device ") and exit_code(state) == HARM


@pytest.mark.parametrize("where", ["pathlib.Path.write_text", "monitoring.watch.check.measure"])
def test_a_full_disk_is_a_failed_check(where: str, market: Market) -> None:
    before = (market.folder / STATE_FILE).read_bytes()
    full = OSError(errno.ENOSPC, "No space left on device")
    with patch(where, side_effect=full), pytest.raises(OSError, match="No space left") as error:
        market.check()
    assert error.value.errno == errno.ENOSPC
    assert (market.folder / STATE_FILE).read_bytes() == before
    assert not [path for path in market.folder.iterdir() if path.name.startswith(".state")]
    assert why(market.check(), "outcomes").reason == "learning"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "can't be read"),
        ('{"version": 1, "streams": {"a', "Invalid JSON"),
        ('{"version": 2, "weather": 3}', "version"),
        ('{"version": 1, "weather": 3}', "weather"),
        ('{"version": 1, "streams": {"a": {"evidence": "much"}}}', "streams.a.evidence"),
    ],
    ids=["a-folder", "half", "newer", "unknown-field", "other-type"],
)
def test_a_state_that_cannot_be_read_is_one_error(text: str | None, words: str, tmp_path: Path) -> None:
    market = Market(tmp_path)
    market.folder.mkdir()
    file = market.folder / STATE_FILE
    file.mkdir() if text is None else file.write_text(text)
    with pytest.raises(StateError, match=words) as error:
        market.check()
    assert "\n" not in str(error.value)
    assert text is None or file.read_text() == text, "the file must not change"
