"""Tests that a windows folder is verified, and each touchpoint is a target exactly once."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.log.columns import WindowError
from mtorl.log.splits import split_of
from mtorl.window.encoder import Encoder
from mtorl.window.table import WindowTable, touchpoints_per_user
from mtorl.window.window import WindowBatch
from tests.mtorl.window.windows_folder import LOG, SPEC, STEPS, recorded_late, write_windows_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    write_windows_folder(tmp_path / "windows", STEPS)
    return tmp_path / "windows"


def test_a_folder_is_read_in_the_order_of_its_manifest(folder):
    table = WindowTable.load(folder)
    users = list(dict.fromkeys(LOG["user_id"]))
    assert list(dict.fromkeys(table.rows["user_id"])) == [*users[::3], *users[1::3], *users[2::3]]
    assert (table.spec, table.fingerprint) == (SPEC, "abc")
    expected = STEPS.set_index(["user_id", "timestamp"])
    rows = table.rows.set_index(["user_id", "timestamp"])
    assert (rows["split"] == split_of(table.rows["user_id"])).all()
    assert set(rows["split"]) == {"train", "val", "test"}
    columns = ["step", "channel", "click", "conversion", "revenue", "cost", "propensity"]
    pd.testing.assert_frame_equal(rows[columns], expected.loc[rows.index, columns])
    assert expected["step"].nunique() > 3 and (expected["step"] == 0).sum() > 60  # the log contains pauses


def test_windows_equal_those_of_the_log(folder):
    table = WindowTable.load(folder)
    encoder = Encoder.fit(table.tiles("train"), SPEC)
    whole = WindowBatch.from_steps(pa.Table.from_pandas(LOG, preserve_index=False), None, SPEC)
    x = dict(zip(zip(LOG["user_id"], LOG["timestamp"], strict=True), encoder.encode(whole)[0], strict=True))
    for split in ("train", "val", "test"):
        rows = table.rows[table.is_in(split)]
        x_BTD, _ = encoder.encode(table.windows(split))
        expected = np.stack([x[key] for key in zip(rows["user_id"], rows["timestamp"], strict=True)])
        assert x_BTD.tobytes() == expected.tobytes()


def test_without_late_rows_the_number_of_tiles_is_minimal(folder):
    table = WindowTable.load(folder)
    batch, rows = table.tiles("train"), table.rows[table.is_in("train")]
    lengths = rows.groupby((rows["step"] == 0).cumsum()).size()
    assert len(batch) == np.ceil(lengths / SPEC.window).sum()
    assert batch.targets is not None and batch.targets.valid_N.all()
    assert sorted(batch.targets.touchpoint_N) == list(range(len(rows)))


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.5, 1.0, 5.0, 99.0]), min_size=1, max_size=7))
def test_every_touchpoint_is_a_target_once_for_any_delays(delays):
    rows = recorded_late(STEPS, delays)
    rows["split"] = "train"
    table = WindowTable(pa.Table.from_pandas(rows, preserve_index=False), rows, SPEC, "")
    batch = table.tiles("train")
    assert batch.targets is not None
    assert sorted(batch.targets.touchpoint_N[batch.targets.valid_N]) == list(range(len(rows)))
    assert np.bincount(batch.row_N[batch.targets.valid_N], minlength=len(batch)).min() > 0
    # Before each valid target, the network must see the same tokens as a server.
    encoder = Encoder.fit(batch, SPEC)
    x_BTD, _ = encoder.encode(batch)
    own_BTD, own_length_B = encoder.encode(table.windows("train"))
    for token in np.flatnonzero(batch.targets.valid_N)[::5]:
        i, place, own = batch.row_N[token], batch.step_N[token], batch.targets.touchpoint_N[token]
        length = own_length_B[own]
        shown = min(place + 1, length)
        expected = own_BTD[own, length - shown : length]
        assert x_BTD[i, place + 1 - shown : place + 1].tobytes() == expected.tobytes()
    padded = encoder.targets(batch)["channel_BT"]
    assert (padded >= 0).sum() == len(rows)


def test_the_reference_is_a_stretch_of_each_training_user(folder):
    table = WindowTable.load(folder)
    train = LOG[split_of(LOG["user_id"]) == "train"]
    names = [column.name for column in (*SPEC.context, *SPEC.static)]
    whole = table.reference(1.0).set_index("user_id").sort_index(kind="stable")
    expected = train.set_index("user_id").sort_index(kind="stable")[names]
    pd.testing.assert_frame_equal(whole, expected)
    some = table.reference(0.4)
    lengths, kept = train.groupby("user_id").size(), some.groupby("user_id").size()
    assert ((kept.reindex(lengths.index, fill_value=0) - 0.4 * lengths).abs() < 1).all()
    assert touchpoints_per_user(folder) == pytest.approx(len(LOG) / LOG["user_id"].nunique())


def test_further_columns_are_ignored_and_an_empty_split_has_no_windows(tmp_path):
    few = STEPS[split_of(STEPS["user_id"]) == "train"].assign(uc_clicks=1.0, campaign_clicks=2.0)
    write_windows_folder(tmp_path / "windows", few)
    table = WindowTable.load(tmp_path / "windows")
    assert len(table.windows("test")) == len(table.tiles("test")) == 0
    assert len(table.windows("train")) == len(few)


def _drop(folder: Path) -> None:
    path = folder / "steps" / "part-00001.parquet"
    pq.write_table(pq.read_table(path).drop(["step", "hour"]), path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _cut(folder: Path) -> None:
    path = folder / "steps" / "part-00001.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


def _manifest(**change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    return apply


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), r"no windows folder \(no manifest.json\); create one"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: not JSON"),
        (lambda folder: (folder / "steps" / "part-00001.parquet").unlink(), "part-00001.parquet: named in the"),
        (_manifest(schema_version=2), "schema version 2"),
        (_manifest(rows=7), "7 rows in the manifest, "),
        (_cut, "part-00001.parquet: damaged"),
        (_drop, "part-00001.parquet: missing columns step, hour"),
    ],
)
def test_an_incomplete_folder_is_refused(folder, harm, message):
    harm(folder)
    with pytest.raises(WindowError, match=message):
        WindowTable.load(folder)
