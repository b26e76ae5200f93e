"""Divides a comparison into jobs that each write a file, so that an interrupted comparison can continue.

    for job in jobs(names): run(job, root)      # in any process; a finished job returns at once
    results = collect(names, root)

    root/data/NAME/windows                         created by the caller
    root/answers/NAME/PROTOCOL-K/METHOD.npz .json  a method's predictions for the test rows; seconds, parameters
    root/scores/NAME/PROTOCOL-K.json               figures of the task
    root/scores/NAME/about.json  authors-K.json    independence tests; the authors' protocol

NAME is the name of a data set, K the number of a fold or seed.
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

REPEATS = 5  # folds of users
SEEDS = 3  # for the time protocol, which has a single split, and for the authors' protocol
FIRST_FOLD = 5  # earlier folds were used for decisions during the development of the model
_EVERY = (
    *(OURS, YARDSTICK, *(name for name in BASELINES if name != YARDSTICK)),
    *(f"{OURS} {ablation}" for ablation in ABLATIONS),
)
# Only methods that predict the reward run under the time protocol; for the others, the user protocol is enough.
_BY_TIME = (OURS, YARDSTICK, "channel_frequency", "repeat_last", "markov", "logistic")
ABOUT, AUTHORS = "about", "authors"


@dataclass(frozen=True)
class Job:
    """A method on a task. The method "score" evaluates all others; "about" and "authors" describe the data set."""

    dataset: str
    protocol: str
    repeat: int
    method: str

    @property
    def label(self) -> str:
        """Label of the job's progress bar."""
        return f"{self.dataset}, {self.protocol} {self.repeat + 1}: {self.method}"


def jobs(datasets: Sequence[str], repeats: int = REPEATS, methods: Sequence[str] = ()) -> list[Job]:
    """Return all jobs, ordered so that scores come after the methods that they evaluate.

    Args:
        repeats: Number of folds; the number of seeds is the same, but at most `SEEDS`.
        methods: Methods in addition to MTORL and the yardstick; by default all.
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
    """Run a job, unless its file exists."""
    path = _file(job, root)
    if path.exists() and job.method != "score":  # scores are recomputed if further methods have answers
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
    """Return all jobs' figures: dataset -> {"about": ..., "user": [per fold], "time": [...], "authors": [...]}."""
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
    """Return a data set under a protocol. Only the last result is cached: the jobs of a task are consecutive."""
    table = _table(root, dataset)
    return by_user(table, FIRST_FOLD + repeat) if protocol == "user" else by_time(table)


@lru_cache(maxsize=1)
def _table(root: Path, dataset: str) -> WindowTable:
    return WindowTable.load(root / "data" / dataset / "windows")


def _write(path: Path, value: Any) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
