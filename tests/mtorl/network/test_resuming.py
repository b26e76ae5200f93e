"""Tests that a resumed or parallel training gives the same network."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mtorl.network.checkpoint import Checkpoint, CheckpointError, write_tensors
from mtorl.network.messages import NO_BATCH, OTHER_TRAINING
from mtorl.network.parallel import Group
from mtorl.network.training import TrainConfig, TrainingLoop, train
from mtorl.runtime.errors import InputError
from mtorl.runtime.messages import START_ANEW
from mtorl.window.loader import TrainingWindows
from tests.messages import raises
from tests.mtorl.network.simulated_journeys import TINY, C, fit, part, whole_part
from tests.repository import ROOT

# Arguments: folder, settings, checkpoint or "", rank of the process to kill or -1, and number of checkpoints before the
# kill.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.mtorl.network.simulated_journeys import C, whole_part
from mtorl.network.checkpoint import Checkpoint
from mtorl.network.parallel import joined
from mtorl.network.training import TrainConfig, TrainingLoop, train
from mtorl.window.loader import TrainingWindows

out, config, checkpoint, victim, limit = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:])
restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
saves, save = 0, TrainingLoop._save

def saved(loop, *args):
    global saves
    save(loop, *args)
    saves += 1
    if saves == limit and loop.group.rank == victim and restarts == "0":
        os.kill(os.getpid(), signal.SIGKILL)

TrainingLoop._save = saved
with joined() as group:
    data = TrainingWindows([whole_part(320, 0), whole_part(320, 1)], [whole_part(100, 2)], C)
    resume = Checkpoint(Path(checkpoint)) if checkpoint else None
    result = train(data, TrainConfig(**config, device="cpu"), group=group, resume=resume)
    run = {"weights": result.model.state_dict(), "history": result.history, "restarts": restarts}
    torch.save(run, f"{out}/{group.rank}-of-{group.size}")
"""
CONFIG: dict[str, Any] = {"epochs": 3, "batch_size": 32, "lr": 0.01, "hidden": 16, "checkpoint_batches": 4}


def _run(
    folder: Path, config: dict[str, Any], checkpoint: str = "", victim: int = -1, limit: int = 3, processes: int = 2
) -> subprocess.CompletedProcess[str]:
    """Train in 1 or 2 subprocesses. If one of two is killed, torchrun restarts both."""
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={int(victim >= 0)}"]
    arguments = [folder / "train.py", folder, json.dumps(config), checkpoint, victim, limit]
    command = [sys.executable, *(launch if processes == 2 else []), *map(str, arguments)]
    # By default, restarted processes meet at the old address (pytorch issue 135712).
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240)


def _result(folder: Path, name: str) -> dict[str, Any]:
    return dict(torch.load(folder / name, weights_only=True))


def _without_seconds(run: dict[str, Any]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run["history"]]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    weights = all(torch.equal(one["weights"][name], value) for name, value in other["weights"].items())
    return weights and _without_seconds(one) == _without_seconds(other)


def _alone(config: dict[str, Any]) -> dict[str, Any]:
    data = TrainingWindows([whole_part(320, 0), whole_part(320, 1)], [whole_part(100, 2)], C)
    result = train(data, TrainConfig(**config, device="cpu"))
    return {"weights": result.model.state_dict(), "history": result.history}


@pytest.mark.long
@pytest.mark.parametrize("kills", [[1], [2, 3], [6]])
def test_a_killed_training_gives_the_same_network(tmp_path, kills):
    checkpoint = str(tmp_path / "checkpoint")
    for kill in kills:
        assert _run(tmp_path, CONFIG, checkpoint, victim=0, limit=kill, processes=1).returncode == -9
        assert (tmp_path / "checkpoint").exists()
    assert _run(tmp_path, CONFIG, checkpoint, processes=1).returncode == 0
    assert _same(_result(tmp_path, "0-of-1"), _alone(CONFIG))


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    data_a, data_b = (Checkpoint(path, {"data": name}) for name in ("a", "b"))

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(TINY, 60, on_epoch=stop, resume=data_a)
    with raises(CheckpointError, OTHER_TRAINING, file=path, fields=["data", "lr"]):
        fit(replace(TINY, lr=0.1), 60, resume=data_b)
    path.write_bytes(path.read_bytes()[:100])
    with raises(CheckpointError, START_ANEW, file=path):
        fit(TINY, 60, resume=data_a)
    path.unlink()
    assert len(fit(TINY, 60, resume=data_a).history) == 2


def test_a_full_disk_loses_the_checkpoint_but_not_the_training(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mtorl.runtime.files.os.replace", full)
    result = fit(TINY, windows=100, resume=Checkpoint(tmp_path / "checkpoint"))
    assert len(result.history) == 2 and os.strerror(errno.ENOSPC) in caplog.text
    assert not list(tmp_path.iterdir())  # no partial file is left


@pytest.mark.long
def test_two_processes_train_the_same_network_as_one(tmp_path):
    """Each process computes the gradient of half a batch, and both apply the mean gradient.

    Dropout and `lam` are 0, because dropout and the preference term would differ between the processes. The learning
    rate is low, because AdamW enlarges rounding errors.
    """
    config = {**CONFIG, "dropout": 0.0, "lam": 0.0, "lr": 1e-4}
    done = _run(tmp_path, {**config, "batch_size": 16})
    assert done.returncode == 0, done.stderr
    first, second = (_result(tmp_path, name) for name in ("0-of-2", "1-of-2"))
    alone = _alone(config)
    assert _same(first, second)
    for name, value in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], value, rtol=0, atol=1e-3)
    for row, row_alone in zip(_without_seconds(first), _without_seconds(alone), strict=True):
        assert row.pop("train_preference") == pytest.approx(row_alone.pop("train_preference"), rel=0.01)
        assert row == pytest.approx(row_alone, rel=1e-5)
    assert first["history"][-1]["val_loss"] < first["history"][0]["val_loss"]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert _run(folder, CONFIG, str(folder / "checkpoint")).returncode == 0
    return folder


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_two_processes_give_the_same_network_after_a_kill_of_one(tmp_path, victim, together):
    """torchrun restarts both processes from one checkpoint."""
    killed = _run(tmp_path / "killed", CONFIG, str(tmp_path / "checkpoint"), victim)
    assert killed.returncode == 0, killed.stderr
    assert "SIGKILL" in killed.stderr or "Signal 9" in killed.stderr or "exitcode: -9" in killed.stderr
    for rank in (0, 1):
        whole, resumed = (_result(folder, f"{rank}-of-2") for folder in (together, tmp_path / "killed"))
        assert resumed["restarts"] == "1" and _same(resumed, whole)


@pytest.mark.long
def test_both_processes_refuse_an_unsuitable_checkpoint(tmp_path, together):
    checkpoint = tmp_path / "checkpoint"
    shutil.copy(together / "checkpoint", checkpoint)
    assert _run(tmp_path, CONFIG, str(checkpoint)).returncode == 0  # the training is finished already
    assert _same(_result(tmp_path, "0-of-2"), _result(together, "0-of-2"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("checkpoint")] == ["checkpoint"]
    refused = _run(tmp_path, {**CONFIG, "lr": 0.1}, str(checkpoint))
    assert refused.returncode != 0
    assert refused.stderr.count("CheckpointError: ") == 2 and "lr differ" in refused.stderr


def test_too_few_windows_for_the_processes_is_an_error(monkeypatch):
    """One of two processes raises the error without waiting for the other."""
    monkeypatch.setattr(Group, "total", lambda self, values: values)
    data = TrainingWindows([part(50, 0)], [part(50, 0)], C)
    loop = TrainingLoop(data, TINY, torch.device("cpu"), Group())
    loop.group = Group(0, 2)
    loop.train_epoch()
    with raises(InputError, NO_BATCH, processes=2):
        loop.close_epoch()


def test_a_full_disk_is_an_os_error() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_tensors(Path("/dev/full"), {"weight": torch.zeros(1000)})
