"""The work of a comparison, divided into jobs that each write a file, so that a stopped comparison can continue.

    for job in jobs(names): run(job, root)      # in any process; a job that is done returns at once
    results = collect(names, root)

    root/data/NAME/windows                         made by the caller
    root/answers/NAME/PROTOCOL-K/METHOD.npz .json  predictions of a method for the test rows; seconds, parameters
    root/scores/NAME/PROTOCOL-K.json               figures of the task
    root/scores/NAME/about.json  authors-K.json    independence; the authors' protocol

NAME is that of a data set, K the number of a fold or a seed.
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
SEEDS = 3  # under the time protocol, where there is one split, and the authors'
FIRST_FOLD = 5  # earlier folds were looked at while the model was developed
_EVERY = (
    *(OURS, YARDSTICK, *(name for name in BASELINES if name != YARDSTICK)),
    *(f"{OURS} {ablation}" for ablation in ABLATIONS),
)
# Under the time protocol, only methods that predict the reward; of the others the user protocol says enough.
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
    """All jobs, in an order in which scores come after the methods that they evaluate.

    `repeats` folds, and `SEEDS` seeds or as few; `methods` beside MTORL and the yardstick, by default all.
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
    """Do a job, unless its file is there."""
    path = _file(job, root)
    if path.exists() and job.method != "score":  # scores are computed again, since more methods may have answers
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
    """The figures of all jobs: dataset -> {"about": ..., "user": [of each fold], "time": [...], "authors": [...]}."""
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
    """A data set under a protocol; the last one is kept, because jobs of the same task follow each other."""
    table = _table(root, dataset)
    return by_user(table, FIRST_FOLD + repeat) if protocol == "user" else by_time(table)


@lru_cache(maxsize=1)
def _table(root: Path, dataset: str) -> WindowTable:
    return WindowTable.load(root / "data" / dataset / "windows")


def _write(path: Path, value: Any) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
