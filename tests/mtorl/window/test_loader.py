"""Tests that training reads and encodes each window once, one shard at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mtorl.window import loader
from mtorl.window.encoder import Encoder
from mtorl.window.loader import EncodedWindows, FolderWindows, batches, tiles
from mtorl.window.table import WindowTable, shards
from tests.mtorl.window.windows_folder import STEPS, recorded_late, write_windows_folder


@pytest.fixture
def folder(tmp_path) -> Path:
    write_windows_folder(tmp_path / "windows", STEPS, shards=3)
    return tmp_path / "windows"


def encoder_of(folder: Path) -> Encoder:
    table = WindowTable.load(folder)
    return Encoder.fit(table.tiles("train"), table.spec)


def test_each_shard_is_a_part_and_every_window_is_read_once(folder):
    encoder = encoder_of(folder)
    source = FolderWindows(folder, "train", encoder)
    assert len(source) == 3 == len(shards(folder))
    whole = EncodedWindows(WindowTable.load(folder).tiles("train"), encoder)
    parts = [source[i].__getitems__(range(len(source[i]))) for i in range(3)]
    everything = whole.__getitems__(range(len(whole)))
    for name, expected in everything._asdict().items():
        assert torch.equal(torch.cat([getattr(batch, name) for batch in parts]), expected)
    assert sum(int((batch.channel_BT >= 0).sum()) for batch in parts) == WindowTable.load(folder).is_in("train").sum()


def test_parts_are_read_one_at_a_time_and_a_single_part_once(folder, tmp_path, monkeypatch):
    read: list[str] = []
    real = loader.tiles
    monkeypatch.setattr(loader, "tiles", lambda *which: read.append(which[2]) or real(*which))
    several = FolderWindows(folder, "train", encoder_of(folder))
    for part in (1, 1, 2):
        assert len(several[part])
    assert read == [shards(folder)[i] for i in (1, 1, 2)]
    read.clear()
    write_windows_folder(tmp_path / "one", STEPS, shards=1)
    single = FolderWindows(tmp_path / "one", "train", encoder_of(tmp_path / "one"))
    assert single[0] is single[0] and len(read) == 1


def test_a_selection_of_windows_equals_those_of_the_whole(folder):
    table = WindowTable.load(folder)
    whole = table.windows("train", targets=True)
    encoder = Encoder.fit(whole, table.spec)
    x_BTD, length_B = encoder.encode(whole)
    random = np.random.default_rng(0)
    for rows in (random.permutation(len(whole)), np.array([5, 5, 0]), np.array([], dtype=np.int64)):
        some = whole.take(rows)
        some_x_BTD, length = encoder.encode(some)
        assert some_x_BTD.tobytes() == x_BTD[rows].tobytes() and (length == length_B[rows]).all()
        for name, values in encoder.targets(some).items():
            assert (values == encoder.targets(whole)[name][rows]).all()


def test_late_touchpoints_have_targets_that_count(tmp_path):
    write_windows_folder(tmp_path / "late", recorded_late(STEPS, [0.0, 5.0, 0.5]), shards=1)
    encoder = encoder_of(tmp_path / "late")
    windows = tiles(tmp_path / "late", "train", shards(tmp_path / "late")[0])
    assert not windows.targets.valid_N.all()
    part = EncodedWindows(windows, encoder)
    batch = part.__getitems__(range(len(part)))
    real = batch.channel_BT >= 0
    assert int(real.sum()) == windows.targets.valid_N.sum()
    means = float(batch.reward_BT[real].double().mean()), float(batch.cost_BT[real].double().mean())
    assert part.means() == pytest.approx(means, rel=1e-5)


def test_batches_are_in_order_and_keep_the_random_state(folder):
    part = EncodedWindows(WindowTable.load(folder).tiles("train"), encoder_of(folder))
    chunks = [np.array([3, 1]), np.array([0]), np.array([2, 4, 5])]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    for workers in (0, 2):
        encoded = list(batches(part, chunks, workers, pinned=False))
        assert torch.equal(torch.get_rng_state(), before)
        for chunk, batch in zip(chunks, encoded, strict=True):
            assert torch.equal(batch.x_BTD, part.__getitems__(chunk.tolist()).x_BTD)
