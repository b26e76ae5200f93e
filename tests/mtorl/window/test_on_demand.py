"""Tests that windows built on demand equal windows built at once."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtorl.log.columns import Codes
from mtorl.window import on_demand, table
from mtorl.window.encoder import Encoder, labels
from mtorl.window.on_demand import from_texts, in_chunks
from mtorl.window.table import WindowTable
from mtorl.window.window import WindowBatch, instance_from_history
from tests.mtorl.window.windows_folder import LOG, SPEC, STEPS, recorded_late, write_windows_folder


def plain(value: Any) -> Any:
    """Return a column as plain values, because its codes depend on the other rows."""
    if isinstance(value, Codes):
        return [None if code < 0 else value.values[code] for code in value.codes]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def assert_equal(one: WindowBatch, other: WindowBatch) -> None:
    for field in fields(WindowBatch):
        if field.name != "targets":
            np.testing.assert_equal(plain(getattr(one, field.name)), plain(getattr(other, field.name)))


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("delays", [[0.0], [0.0, 3.0, 0.0, 0.2]])
def test_chunks_equal_windows_built_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, delays: list[float]
) -> None:
    monkeypatch.setattr(on_demand, "CHUNK", chunk)
    write_windows_folder(tmp_path, recorded_late(STEPS, delays), shards=3)
    loaded = WindowTable.load(tmp_path)
    at_once, encoder = loaded.windows("val", targets=True), Encoder.fit(loaded.tiles("train"), SPEC)
    windows = loaded.on_demand("val", targets=True)
    assert len(windows) == len(at_once) > 20
    batches = list(in_chunks(windows))
    assert max(map(len, batches)) <= chunk
    assert_equal(on_demand.joined(batches), at_once)
    np.testing.assert_equal(labels(windows, encoder), labels(at_once, encoder))
    some = np.arange(3, len(at_once), 4)
    assert_equal(on_demand.joined(list(in_chunks(windows.only(some)))), at_once.take(some))


def test_windows_from_text_equal_those_of_the_parsed_json(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    items = []
    for at in range(40):
        row = LOG.iloc[int(random.integers(len(LOG)))]
        context = json.loads(pd.Series({column.name: row[column.name] for column in SPEC.context}).to_json())
        static = {column.name: row[column.name] if random.random() < 0.7 else None for column in SPEC.static}
        items.append(instance_from_history({}, context, json.loads(pd.Series(static).to_json()), SPEC, 1.7e15 + at))
    whole = WindowBatch.from_instances(items, SPEC)
    monkeypatch.setattr(on_demand, "CHUNK", 9)
    assert_equal(from_texts([json.dumps(item) for item in items], SPEC), whole)
    assert len(from_texts([], SPEC)) == 0


def test_a_bound_reads_whole_users_of_few_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_windows_folder(tmp_path, STEPS, shards=10)
    everything = WindowTable.load(tmp_path, "train")
    opened: list[str] = []
    read = table._read
    monkeypatch.setattr(table, "_read", lambda *which: opened.append(which[1]["file"]) or read(*which))
    some = WindowTable.load(tmp_path, "train", most=len(everything.rows) // 4)
    assert len(opened) < 5 and some.share == pytest.approx(0.25, abs=0.08)
    assert 0 < len(some.rows) < 0.6 * len(everything.rows)
    lengths = everything.rows.groupby("user_id").size()
    assert some.rows.groupby("user_id").size().equals(lengths[sorted(some.rows["user_id"].unique())]), "users are cut"
    again = WindowTable.load(tmp_path, "train", most=len(everything.rows) // 4)
    assert again.rows.equals(some.rows), "the selection is not repeatable"
    whole = WindowTable.load(tmp_path, "train", most=2 * len(everything.rows))
    assert whole.share == 1.0 and whole.rows.equals(everything.rows)
