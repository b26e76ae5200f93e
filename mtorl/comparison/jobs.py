"""Divides a comparison of methods into jobs that write files, so that an interrupted comparison can continue.

    root/data/NAME/windows                      the data set, created by the caller
    root/answers/NAME/PROTOCOL-K/METHOD.npz     a method's predictions for the test rows
    root/answers/NAME/PROTOCOL-K/METHOD.json    seconds of training, number of parameters
    root/scores/NAME/PROTOCOL-K.json            metrics of all methods
    root/scores/NAME/about.json                 independence tests
    root/scores/NAME/authors-K.json             results with the authors' protocol

NAME is the name of a data set, and K is the number of a fold or seed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mtorl.comparison.authors_protocol import authors_protocol
from mtorl.comparison.independence import independence
from mtorl.comparison.methods import ABLATIONS, BASELINES, METHODS, OURS, YARDSTICK
from mtorl.comparison.score import score
from mtorl.comparison.task import Task, by_time, by_user
from mtorl.runtime.files import replacing
from mtorl.window.table import WindowTable

REPEATS = 5  # number of folds of users in the "user" protocol
SEEDS = 3  # number of seeds for the other protocols, which have no folds
# Skip folds 0 to 4, because results on their test users have influenced the design of the model.
FIRST_FOLD = 5
_EVERY = (
    *(OURS, YARDSTICK, *(name for name in BASELINES if name != YARDSTICK)),
    *(f"{OURS} {ablation}" for ablation in ABLATIONS),
)
# Methods that run with both protocols; all others run only with the "user" protocol.
_BY_TIME = (OURS, YARDSTICK, "channel_frequency", "repeat_last", "markov", "logistic")
ABOUT, AUTHORS = "about", "authors"


@dataclass(frozen=True)
class Job:
    """A piece of work: train `method` and predict the test rows.

    If `method` is "score", `ABOUT` or `AUTHORS`, the job writes a file in the folder `scores` instead.
    """

    dataset: str
    protocol: str
    repeat: int
    method: str

    @property
    def label(self) -> str:
        """The text that the progress bar shows while the job runs."""
        return f"{self.dataset}, {self.protocol} {self.repeat + 1}: {self.method}"


def jobs(datasets: Sequence[str], repeats: int = REPEATS, methods: Sequence[str] = ()) -> list[Job]:
    """Return all jobs of a comparison. The jobs that evaluate predictions follow the jobs that make them.

    Args:
        repeats: Number of folds. Protocols without folds use this many seeds instead, but at most `SEEDS`.
        methods: Names of the methods to compare; empty means all. MTORL and LightGBM are always included.
    """
    todo: list[Job] = []
    for protocol, wanted in (("user", _EVERY), ("time", _BY_TIME)):
        chosen = [name for name in wanted if not methods or name in (OURS, YARDSTICK, *methods)]
        for repeat in range(repeats if protocol == "user" else min(repeats, SEEDS)):
            for dataset in datasets:
                todo += [Job(dataset, protocol, repeat, name) for name in chosen]
    scores = dict.fromkeys((job.dataset, job.protocol, job.repeat) for job in todo)
    todo += [Job(*key, "score") for key in scores]
    todo += [Job(dataset, AUTHORS, seed, AUTHORS) for dataset in datasets for seed in range(min(repeats, SEEDS))]
    return [*todo, *(Job(dataset, ABOUT, 0, ABOUT) for dataset in datasets)]


def run(job: Job, root: Path) -> None:
    """Run a job and write its file, unless a complete file exists."""
    path = _file(job, root)
    # A "score" file is written again if it lacks a method that has finished since.
    if path.exists() and job.method != "score":
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if job.method == ABOUT:
        return _write(path, {"independence": independence(_table(root, job.dataset))})
    if job.method == AUTHORS:
        return _write(path, authors_protocol(_table(root, job.dataset), job.repeat))
    if job.method == "score":
        names = sorted(file.stem for file in _answers(job, root).glob("[!.]*.npz"))
        if path.exists() and sorted(json.loads(path.read_text())["costs"]) == names:
            return
        answers = {name: np.load(_answers(job, root) / f"{name}.npz") for name in names}
        heads = {name: (file["logits"], file["reward"], file["cost"]) for name, file in answers.items()}
        costs = {name: json.loads((_answers(job, root) / f"{name}.json").read_text()) for name in names}
        task = load_task(root, job.dataset, job.protocol, job.repeat)
        return _write(path, {**score(task, heads, seed=job.repeat), "costs": costs})
    answer = METHODS[job.method](load_task(root, job.dataset, job.protocol, job.repeat), job.repeat)
    logits_BC, reward_BC, cost_BC = (np.asarray(part, dtype=np.float32) for part in answer.heads)
    _write(path.with_suffix(".json"), {"seconds": answer.seconds, "parameters": answer.parameters})
    with replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, logits=logits_BC, reward=reward_BC, cost=cost_BC)


def collect(jobs_done: Sequence[Job], root: Path) -> dict[str, Any]:
    """Read the results of all jobs, by data set and protocol."""
    results: dict[str, Any] = {}
    for job in jobs_done:
        if job.method in ("score", AUTHORS):
            results.setdefault(job.dataset, {}).setdefault(job.protocol, []).append(
                json.loads(_file(job, root).read_text())
            )
        elif job.method == ABOUT:
            results.setdefault(job.dataset, {})[ABOUT] = json.loads(_file(job, root).read_text())
    return results


def _answers(job: Job, root: Path) -> Path:
    return root / "answers" / job.dataset / f"{job.protocol}-{job.repeat}"


def _file(job: Job, root: Path) -> Path:
    if job.method == ABOUT:
        return root / "scores" / job.dataset / f"{ABOUT}.json"
    if job.method in ("score", AUTHORS):
        return root / "scores" / job.dataset / f"{job.protocol}-{job.repeat}.json"
    return _answers(job, root) / f"{job.method}.npz"


@lru_cache(maxsize=1)
def load_task(root: Path, dataset: str, protocol: str, repeat: int) -> Task:
    """Load a data set and split it by a protocol; the last task is cached."""
    table = _table(root, dataset)
    return by_user(table, FIRST_FOLD + repeat) if protocol == "user" else by_time(table)


@lru_cache(maxsize=1)
def _table(root: Path, dataset: str) -> WindowTable:
    return WindowTable.load(root / "data" / dataset / "windows")


def _write(path: Path, value: Any) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
