import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtorl.log import opportunities
from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.opportunities import OPPORTUNITIES_FILE, Opportunities, contexts

SPEC = DatasetSpec(
    name="toy",
    channels=("search", "video"),
    context=(Column(name="device", kind="categorical"),),
    static=(Column(name="age", kind="numeric"),),
    propensity="logged",
    window=2,
)


def window(**changes: Any) -> dict[str, Any]:
    usual = {"timestamp": 0, "prev_channel": [None], "context": {"device": ["tv"]}, "static": {"age": 40.0}}
    return {**usual, **{f"prev_{name}": [0.0] for name in SPEC.window_outcomes}, **changes}


def write(folder: Path, windows: list[dict[str, Any]], split: str = "test", **columns: Any) -> Path:
    rows = len(windows)
    table = {
        "decision_id": [f"d{i}" for i in range(rows)],
        "user_id": [f"u{i}" for i in range(rows)],
        "timestamp": pd.to_datetime(np.arange(rows), unit="s", utc=True),
        **{"arm": "incumbent", "generation": "d"},
        **{"channel": "video", "exposed": True, "device": "tv", "age": 40.0, "split": split},
        "channel_probs": [[0.25, 0.75]] * rows,
        "exposure_probs": [[0.0, 1.0]] * rows,
        **dict.fromkeys(("cost", "revenue"), 0.5),
        **dict.fromkeys(("click", "conversion"), 1),
        "features": [json.dumps(one) if split != "train" else None for one in windows],
    }
    pd.DataFrame({**table, **columns}).to_parquet(folder / OPPORTUNITIES_FILE)
    return folder


def test_opportunities_are_read(tmp_path: Path) -> None:
    found = Opportunities.load(write(tmp_path, [window()] * 600), SPEC, "test")
    assert len(found) == 600
    assert found.channel_B.tolist() == [1] * 600 and found.exposed_B.all()
    assert found.propensity_B.tolist() == [0.75] * 600
    assert found.exposure_probs_BC[0].tolist() == [0.0, 1.0] and json.loads(found.windows[0]) == window()


def test_the_order_of_opportunities_is_independent_of_the_writer(tmp_path: Path) -> None:
    spent = {"cost": np.arange(600.0), "user_id": [f"u{i // 2}" for i in range(600)], "timestamp": pd.Timestamp(0)}
    write(tmp_path, [window(timestamp=i) for i in range(600)], **spent)
    one = Opportunities.load(tmp_path, SPEC, "test")
    table = pd.read_parquet(tmp_path / OPPORTUNITIES_FILE)
    table.sample(frac=1, random_state=1).to_parquet(tmp_path / OPPORTUNITIES_FILE)
    other = Opportunities.load(tmp_path, SPEC, "test")
    assert one.rows.equals(other.rows) and one.windows == other.windows


def test_few_decisions_are_not_enough(tmp_path: Path) -> None:
    assert len(Opportunities.load(tmp_path, SPEC, "test")) == 0 and contexts(tmp_path, SPEC, "train") is None
    for count, enough in ((opportunities.ENOUGH - 1, False), (opportunities.ENOUGH, True)):
        found = Opportunities.load(write(tmp_path, [window()] * count), SPEC, "test")
        assert (len(found), found.enough) == (count, enough)
    other = Opportunities.load(tmp_path, SPEC, "val")
    assert len(other) == 0 and not other.enough and other.propensity_B.shape == (0,)


@pytest.mark.parametrize(
    "odd",
    [
        *(window(context={}), window(static={}), window(prev_channel=[None, "radio"])),
        *(window(prev_channel=["video", "video", "video"]), None),
    ],
    ids=["context", "static", "channel", "longer", "none"],
)
def test_decisions_with_other_columns_or_no_window_are_left_out(tmp_path: Path, odd: dict[str, Any] | None) -> None:
    texts = [None if odd is None else json.dumps(odd), *[json.dumps(window())] * 600]
    found = Opportunities.load(write(tmp_path, [window()] * 601, features=texts), SPEC, "test")
    assert len(found) == 600 and texts[0] not in found.windows


def test_windows_without_a_new_outcome_are_left_out(tmp_path: Path) -> None:
    profit = SPEC.replace(outcomes=(Column(name="profit", kind="numeric"),), immediate=("click", "cost", "profit"))
    windows = [window(), *[window(prev_profit=[-1.0])] * 600]
    found = Opportunities.load(write(tmp_path, windows, profit=-2.0), profit, "test")
    assert len(found) == 600 and found.rows["profit"].tolist() == [-2.0] * 600


def test_contexts_of_training_users_need_no_window(tmp_path: Path) -> None:
    users = [f"u{i % 3}" for i in range(600)]
    found = contexts(write(tmp_path, [window()] * 600, "train", user_id=users), SPEC, "train")
    assert list(found.columns) == ["user_id", "device"] and len(found) == 600
    assert found["user_id"].is_monotonic_increasing
    assert contexts(tmp_path, SPEC.replace(context=(Column(name="new", kind="numeric"),)), "train") is None
