"""Tests that an ensemble predicts its members' mean, and that its training can be resumed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest
import torch

from mtorl.network.checkpoint import Checkpoint, CheckpointError
from mtorl.network.ensemble import Ensemble, train_ensemble
from mtorl.network.model import MTORL, MTORLConfig
from mtorl.network.parallel import TrainingFailed, processors
from mtorl.network.training import TrainConfig, train
from mtorl.window.loader import TrainingWindows
from tests.mtorl.network.simulated_journeys import C, part
from tests.repository import ROOT

CONFIG = TrainConfig(epochs=2, batch_size=32, hidden=8, heads=2, device="cpu")


def trained(**more):
    return train_ensemble(TrainingWindows([part(100, 0)], [part(50, 1)], C), CONFIG, **more)


def test_a_prediction_is_the_mean_of_the_members():
    torch.manual_seed(0)
    config = MTORLConfig(inputs=9, channels=3, window=4, outcomes=2, hidden=8)
    members = [MTORL(config).eval() for _ in range(3)]
    x, length = torch.randn(5, 4, 9), torch.tensor([1, 2, 3, 4, 4])
    with torch.inference_mode():
        logits, reward, cost = Ensemble(members).eval()(x, length)
        parts = [member(x, length) for member in members]
    torch.testing.assert_close(logits.softmax(1), torch.stack([p[0].softmax(1) for p in parts]).mean(0))
    torch.testing.assert_close(reward, torch.stack([p[1] for p in parts]).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cost, torch.stack([p[2] for p in parts]).mean(0))


def test_members_differ_and_the_first_equals_a_single_network():
    both = trained()
    first, second = (torch.cat([p.flatten() for p in member.parameters()]) for member in both.ensemble.members)
    assert not torch.equal(first, second)
    alone = train(TrainingWindows([part(100, 0)], [part(50, 1)], C), CONFIG).model
    assert torch.equal(torch.cat([p.flatten() for p in alone.parameters()]), first)
    assert both.parameters == 2 * len(first) and not both.ensemble.training


@pytest.mark.parametrize("stop_at", [(0, 1), (0, 2), (1, 1)])
def test_a_kill_loses_no_member(tmp_path, stop_at):
    resume = Checkpoint(tmp_path / "checkpoint")

    def stop(member, row):
        if (member, row["epoch"]) == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(resume=resume, on_epoch=stop)
    assert list(tmp_path.iterdir())
    seen = []
    both = trained(resume=resume, on_epoch=lambda member, row: seen.append((member, row["epoch"])))
    assert seen == [at for at in ((0, 1), (0, 2), (1, 1), (1, 2)) if at > stop_at]  # no epoch is trained twice
    assert set(tmp_path.iterdir()) == {resume.of_member(0).path, resume.of_member(1).path}
    resume.remove(members=2)
    assert not list(tmp_path.iterdir())
    whole = trained()
    assert same(both, whole)
    assert [m.best_epoch for m in both.members] == [m.best_epoch for m in whole.members]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.ensemble.parameters(), other.ensemble.parameters(), strict=True))


@pytest.mark.integration
def test_members_trained_in_parallel_are_identical(tmp_path):
    resume, seen = Checkpoint(tmp_path / "checkpoint"), []
    both = trained(resume=resume, at_once=True, on_epoch=lambda member, row: seen.append((member, row["epoch"])))
    assert same(both, trained())
    assert sorted(seen) == [(0, 1), (0, 2), (1, 1), (1, 2)] and not both.ensemble.training
    assert set(tmp_path.iterdir()) == {resume.of_member(0).path, resume.of_member(1).path}
    # A resumed training may load finished members in parallel or in turn.
    assert same(both, trained(resume=resume))
    assert same(both, trained(resume=resume, at_once=True))
    assert not children()


def children():
    return [child for child in psutil.Process().children(True) if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize(("said", "used"), [("1", 1), ("2", 2), ("64", 4), ("", 4), ("0", 4), ("many", 4)])
def test_the_number_of_processors_can_be_limited(monkeypatch, said, used):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert processors() == used


class Broken:
    def __len__(self):
        if multiprocessing.parent_process() is None:  # the first member trains
            return 1
        raise CheckpointError("its words")

    def __getitem__(self, place):
        return part(100, 0)


@pytest.mark.integration
def test_an_error_in_a_member_process_ends_the_training():
    with pytest.raises(CheckpointError, match="its words"):
        train_ensemble(TrainingWindows(Broken(), [part(50, 1)], C), CONFIG, at_once=True)
    assert not children()


@pytest.mark.integration
def test_a_killed_process_is_an_error():
    def kill(member, row):
        for child in children():
            child.kill()

    with pytest.raises(TrainingFailed):
        trained(on_epoch=kill, at_once=True)


@pytest.mark.long
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_member_processes_end_with_the_parent(name):
    script = """
        import os, signal, sys
        from tests.mtorl.network.test_ensemble import trained
        def stop(member, row):
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        trained(on_epoch=stop, at_once=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), name]
    one = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # This returns only after all member processes have ended, because each holds the pipe open.
    output, _ = one.communicate(timeout=120)
    assert one.returncode == -signal.Signals[name] or "KeyboardInterrupt" in output, output
