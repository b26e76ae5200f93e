"""A training that is killed and resumed, or that several processes share, ends as one that is not."""

from __future__ import annotations

import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtorl.network.checkpoint import Checkpoint, CheckpointError, write_tensors
from mtorl.network.parallel import Group
from mtorl.network.training import TrainConfig, TrainingLoop, train
from mtorl.window.loader import TrainingWindows
from tests.mtorl.network.simulated_journeys import RESUMED, SMALL, C, fit, part
from tests.repository import ROOT


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


# ---- one process, killed

WORKER = """
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from tests.mtorl.network.simulated_journeys import RESUMED, C, part
from mtorl.network.checkpoint import Checkpoint
from mtorl.network.training import train
from mtorl.window.loader import TrainingWindows

saves, limit, save = 0, int(sys.argv[3]), Checkpoint.save

def saved(*args):
    global saves
    save(*args)
    saves += 1
    if saves == limit:
        os.kill(os.getpid(), signal.SIGKILL)

Checkpoint.save = saved
data = TrainingWindows([part(150, 0), part(150, 1)], [part(60, 2)], C)
result = train(data, RESUMED, resume=Checkpoint(Path(sys.argv[2])))
torch.save({"weights": result.model.state_dict(), "losses": [r["train_loss"] for r in result.history]}, sys.argv[4])
"""


def _worker(folder: Path, kill_after: int, name: str) -> int:
    command = [sys.executable, "-c", WORKER, str(ROOT), str(folder / "checkpoint"), str(kill_after), str(folder / name)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


@pytest.mark.parametrize("kills", [[1], [2, 3], [4]])
def test_a_training_that_was_killed_ends_where_one_that_was_not_does(tmp_path, kills):
    for kill in kills:  # inside an epoch and between two, before and after the first part
        assert _worker(tmp_path, kill, "none") == -9
        assert (tmp_path / "checkpoint").exists()
    assert _worker(tmp_path, 0, "resumed") == 0
    whole = train(TrainingWindows([part(150, 0), part(150, 1)], [part(60, 2)], C), RESUMED)
    resumed = torch.load(tmp_path / "resumed", weights_only=True)
    assert resumed["losses"] == [row["train_loss"] for row in whole.history]
    assert all(torch.equal(resumed["weights"][name], value) for name, value in whole.model.state_dict().items())


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    data_a, data_b = (Checkpoint(path, {"data": name}) for name in ("a", "b"))
    config = TrainConfig(epochs=2, batch_size=64, hidden=8, heads=2, device="cpu")

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, 60, on_epoch=stop, resume=data_a)
    with pytest.raises(CheckpointError, match=r"checkpoint: belongs to another training; data, lr differ"):
        fit(replace(config, lr=0.1), 60, resume=data_b)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"cannot be read .* delete it to start anew"):
        fit(config, 60, resume=data_a)
    path.unlink()
    assert len(fit(config, 60, resume=data_a).history) == 2


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    config = replace(SMALL, epochs=2)
    monkeypatch.setattr("mtorl.runtime.files.os.replace", full)
    result = fit(config, windows=100, resume=Checkpoint(tmp_path / "checkpoint"))
    assert len(result.history) == 2 and "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())  # nothing half is left


# ---- several processes

DISTRIBUTED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from tests.mtorl.network.simulated_journeys import C, part
from mtorl.network.checkpoint import Checkpoint
from mtorl.network.parallel import joined
from mtorl.network.training import TrainConfig, train
from mtorl.window.loader import TrainingWindows

with joined() as group:
    config = TrainConfig(epochs=3, batch_size=32, lr=0.01, hidden=16, device="cpu")
    data = TrainingWindows([part(300, 0), part(300, 1)], [part(101, 2)], C)
    resume = Checkpoint(Path(sys.argv[3])) if len(sys.argv) > 3 else None
    result = train(data, config, group=group, resume=resume)
    run = {"weights": result.model.state_dict(), "history": result.history}
    torch.save(run, f"{sys.argv[2]}/{group.rank}-of-{group.size}")
"""


def test_two_processes_train_one_network(tmp_path):
    (tmp_path / "train.py").write_text(DISTRIBUTED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, str(tmp_path / "train.py"), str(ROOT), str(tmp_path)], cwd=ROOT, check=True)
    subprocess.run([sys.executable, str(tmp_path / "train.py"), str(ROOT), str(tmp_path)], cwd=ROOT, check=True)
    first, second, alone = (torch.load(tmp_path / name, weights_only=True) for name in ("0-of-2", "1-of-2", "0-of-1"))
    assert all(torch.equal(first["weights"][name], value) for name, value in second["weights"].items())
    for rows in zip(first["history"], second["history"], strict=True):
        assert all(rows[0][name] == rows[1][name] for name in rows[0] if name != "seconds")
    # A process alone takes other batches, and still learns about the same.
    best, best_alone = (min(row["val_loss"] for row in run["history"]) for run in (first, alone))
    assert best < alone["history"][0]["val_loss"] and best == pytest.approx(best_alone, rel=0.1)


def test_processes_that_stopped_at_different_places_do_not_go_on(tmp_path):
    (tmp_path / "train.py").write_text(DISTRIBUTED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launch += [str(tmp_path / "train.py"), str(ROOT), str(tmp_path), str(tmp_path / "checkpoint")]
    subprocess.run(launch, cwd=ROOT, check=True)
    weights = torch.load(tmp_path / "0-of-2", weights_only=True)["weights"]
    subprocess.run(launch, cwd=ROOT, check=True)  # both have finished: nothing is left to do
    again = torch.load(tmp_path / "0-of-2", weights_only=True)["weights"]
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    Checkpoint(tmp_path / "checkpoint").of_rank(1).path.unlink()  # one was killed before it could save
    launched = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, check=False)
    assert launched.returncode != 0 and "processes stopped at different places; delete the files" in launched.stderr


def test_too_few_windows_for_the_processes_is_said(monkeypatch):
    """One of two processes; the other one is not needed to see that there is nothing to do."""
    monkeypatch.setattr(Group, "total", lambda self, values: values)
    config = TrainConfig(epochs=1, batch_size=64, hidden=8, heads=2, device="cpu")
    data = TrainingWindows([part(50, 0)], [part(50, 0)], C)
    loop = TrainingLoop(data, config, torch.device("cpu"), Group())
    loop.group = Group(0, 2)
    loop.train_epoch()
    with pytest.raises(ValueError, match="no shard has a batch for each of the 2 processes; lower batch_size"):
        loop.close_epoch()


def test_a_full_disk_is_an_error_of_the_disk() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        write_tensors(Path("/dev/full"), {"weight": torch.zeros(1000)})
