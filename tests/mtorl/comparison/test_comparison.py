"""Tests that a comparison trains and tests on different rows, and repeats no finished job."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mtorl.comparison import jobs, methods
from mtorl.comparison.authors_protocol import LENGTH, authors_protocol, policy_ctr
from mtorl.comparison.jobs import Job, collect
from mtorl.comparison.methods import BASELINES, METHODS, OURS
from mtorl.comparison.report import NAMES, combined, report, target_text
from mtorl.comparison.score import calibration_noise
from mtorl.comparison.task import by_time, by_user, last_only
from mtorl.evaluation.head_metrics import calibration_error, top_label
from mtorl.log.dataset import DatasetSpec
from mtorl.network.training import TrainConfig
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch
from tests.mtorl.window.windows_folder import write_windows_folder

SPEC = DatasetSpec.load("simulator")
SOME = ["markov"]


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    rows = Simulator(SimulatorConfig(users=250, seed=5)).log()
    rows["step"] = rows.groupby("user_id").cumcount()
    return rows.sort_values(["user_id", "timestamp"], kind="stable").reset_index(drop=True)


@pytest.fixture(scope="module")
def table(log) -> WindowTable:
    return WindowTable(pa.Table.from_pandas(log, preserve_index=False), log.assign(split="none"), SPEC, "print")


def test_each_fold_holds_out_different_users(table):
    tasks = [by_user(table, fold) for fold in range(10)]
    tested = [set(task.test.rows["user_id"]) for task in tasks]
    assert sum(map(len, tested)) == len(set.union(*tested)) == table.rows["user_id"].nunique()
    for task in tasks[:2]:
        users = [set(rows.rows["user_id"]) for rows in (task.train, task.val, task.test)]
        assert not (users[0] & users[1] or users[0] & users[2] or users[1] & users[2])
        assert sum(len(rows.rows) for rows in (task.train, task.val, task.test)) == len(table.rows)
        assert task.tiles.targets.valid_N.sum() == len(task.train.rows)


def test_under_the_time_protocol_training_ends_before_the_test_begins(table):
    task = by_time(table)
    last, first = task.train.rows["timestamp"].max(), task.test.rows["timestamp"].min()
    assert last < task.val.rows["timestamp"].min() <= task.val.rows["timestamp"].max() < first
    shares = [len(rows.rows) / len(table.rows) for rows in (task.train, task.val, task.test)]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.01)
    assert task.tiles.targets.valid_N.sum() == len(task.train.rows)
    # The window of a test row has the user's whole past, including training rows.
    x, length = task.encoder.encode(task.test.windows)
    whole, whole_length = task.encoder.encode(table_windows(table, task.table.is_in("test")))
    assert x.tobytes() == whole.tobytes() and (length == whole_length).all() and length.max() > 5
    later = table.rows["timestamp"] > first
    changed = table.rows.assign(channel=np.where(later, SPEC.channels[0], table.rows["channel"]))
    other = replace(table, rows=changed, steps=pa.Table.from_pandas(changed.drop(columns="split")))
    again = by_time(other)
    assert task.encoder.encode(task.tiles)[0].tobytes() == again.encoder.encode(again.tiles)[0].tobytes()


def table_windows(table: WindowTable, rows: np.ndarray) -> WindowBatch:
    return WindowBatch.from_steps(table.steps, np.flatnonzero(rows), table.spec)


def test_each_row_counts_once(table):
    windows = by_user(table, 0).val.windows
    assert windows.targets.valid_N.sum() > len(windows)
    assert last_only(windows).targets.valid_N.sum() == len(windows)


def test_a_shifted_head_has_a_larger_calibration_error_than_noise():
    random = np.random.default_rng(0)
    level_B = random.normal(size=20_000)
    probability_B = 1 / (1 + np.exp(-level_B))
    channel_B = (random.random(20_000) < probability_B).astype(int)
    logits_BC = np.stack([np.zeros(20_000), level_B], axis=1)
    target_B = (random.random(20_000) < probability_B).astype(float)
    shifted_B = 1 / (1 + np.exp(-level_B - 0.5))
    noise = calibration_noise(
        (logits_BC, np.stack([shifted_B] * 2, axis=1), np.zeros((20_000, 2))), channel_B, target_B, seed=0
    )
    measured = calibration_error(shifted_B, target_B)
    assert measured > 0.08
    assert noise["reward_ece"]["less_shift"] < noise["reward_ece"]["noise_high"] * 1.5 < measured
    action = calibration_error(*top_label(logits_BC, channel_B))
    assert 0 < noise["action_ece"]["noise"] < noise["action_ece"]["noise_high"]
    assert action < noise["action_ece"]["noise_high"] * 1.2


def test_every_method_has_a_name_and_predicts(table):
    assert set(METHODS) == set(NAMES) and set(BASELINES) < set(METHODS)
    task = by_user(table, 0)
    for name in ("channel_frequency", "markov"):
        answer = METHODS[name](task, 0)
        assert [part.shape for part in answer.heads] == [(len(task.test.rows), 4)] * 3


@pytest.fixture(scope="module")
def root(log, tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("paper")
    write_windows_folder(folder / "data" / "simulator" / "windows", log, shards=1)
    SPEC.save(folder / "data" / "simulator" / "windows" / "dataset.yaml")
    return folder


@pytest.fixture(scope="module")
def results(root):
    small, protocol = {"epochs": 1, "hidden": 8, "heads": 2}, jobs.authors_protocol
    config = TrainConfig(**small, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods.METHODS, OURS, methods.mtorl_with(small))
        patch.setattr(jobs, "authors_protocol", lambda table, seed: protocol(table, seed, config))
        todo = jobs.jobs(["simulator"], repeats=2, methods=SOME)
        for job in todo:
            jobs.run(job, root)
    return collect(todo, root)


def test_jobs_write_the_files_of_the_report(results, root):
    text = report(results, {"cores": "2"})
    for heading in (
        "### Protocol `user`",
        "### Protocol `time`",
        "| Markov, running rate |",
        "### The authors' protocol",
    ):
        assert heading in text
    auc = np.mean([task["compared"]["metrics"][OURS]["reward_auc"] for task in results["simulator"]["user"]])
    assert f"{auc:.4f} ±" in text
    assert "nan" not in text and "None" not in text
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_a_finished_job_does_not_run_again(results, root, monkeypatch):
    monkeypatch.setattr(jobs, "load_task", lambda *_: pytest.fail("a task was made"))
    for job in jobs.jobs(["simulator"], repeats=2, methods=SOME):
        jobs.run(job, root)
    (root / "answers" / "simulator" / "user-0" / "markov.npz").unlink()
    with pytest.raises(pytest.fail.Exception):
        jobs.run(Job("simulator", "user", 0, "markov"), root)
    # A new method's answers make a new score, and an unfinished file of answers is ignored.
    (root / "answers" / "simulator" / "user-1" / ".markov.npz.17").write_bytes(b"half")
    jobs.run(Job("simulator", "user", 1, "score"), root)
    with pytest.raises(pytest.fail.Exception):
        jobs.run(Job("simulator", "user", 0, "score"), root)


def test_a_lookup_table_wins_where_test_windows_overlap_with_training(table):
    long = table.rows.groupby("user_id")["step"].transform("size") >= LENGTH + 2
    if not long.any():
        pytest.fail("the log has no user with enough touchpoints")
    figures = authors_protocol(table, 0, TrainConfig(epochs=1, hidden=8, heads=2, device="cpu"))
    assert figures["overlap"] > 0.5
    lookup_accuracy = figures["lookup table"]["metrics"]["action_accuracy"]
    assert lookup_accuracy > 0.9 * figures["overlap"]
    markov = METHODS["markov"](by_user(table, 0), 0)
    assert 0 < figures["mtorl"]["metrics"]["action_accuracy"] < lookup_accuracy
    assert lookup_accuracy > 1.5 * (markov.heads[0].argmax(1) == 0).mean()
    short = replace(table, rows=table.rows[~long], steps=table.steps.filter(pa.array(~long.to_numpy())))
    assert authors_protocol(short, seed=0) == {}


def test_several_folds_are_more_precise_than_one():
    folds = [{"auc": 0.1, "auc_ci": [0.0, 0.2]}, {"auc": 0.3, "auc_ci": [0.2, 0.4]}]
    mean, low, high = combined(folds, "auc", disjoint=True)
    assert mean == pytest.approx(0.2) and high - low == pytest.approx(0.2 / np.sqrt(2))
    mean, low, high = combined(folds, "auc", disjoint=False)
    assert high - low == pytest.approx(0.2)
    assert combined([{"auc": None, "auc_ci": None}], "auc", disjoint=True) is None


@pytest.mark.parametrize(
    ("low", "channel", "verdict"), [(-0.003, "a", "**met**"), (-0.005, "a", "**not met**"), (0, None, "can't show")]
)
def test_the_target_is_met_if_the_interval_rules_out_a_loss_above_the_margin(low, channel, verdict):
    target = {"channel": channel, "constant": 0.2, "difference": 0.0, "difference_ci": [low, -low]}
    assert verdict in target_text([{"target": target}])


def test_the_authors_policy_ctr_is_the_click_rate_times_the_chance_of_a_match():
    """The policy ignores the logged channel, so both match by chance in a third of the rows."""
    random = np.random.default_rng(0)
    rows = 300_000
    taste, channel = random.random(rows), random.choice(3, rows, p=[0.5, 0.3, 0.2])
    choice = random.integers(3, size=rows)
    click = random.random(rows) < 0.4 * taste
    selected = taste > 0.6
    expected = click[selected].mean() * (choice == channel)[selected].mean()
    assert policy_ctr(selected, choice, channel, click) == pytest.approx(expected, rel=0.02)
    assert expected == pytest.approx(0.32 / 3, rel=0.02)
