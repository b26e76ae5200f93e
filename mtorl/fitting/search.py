"""Searches hyper-parameters on one machine: Optuna proposes settings, and `Trials` measures them.

    report = search("runs/latest/windows", "best", SearchConfig(trials=30))
    report.best.settings, report.best.loss, report.default_loss

The first trial has the default settings, so the best trial is at least as good as the defaults on validation users. All
other settings are proposed by TPE (Bergstra et al. 2011) from the seed and the finished trials, so a killed search
continues with the same proposals. A trial stops early if its loss after an epoch is above the median loss of the other
trials after the same epoch.

A trial trains one network. Its objective is the validation loss at the best epoch with the *default* weights of the
three losses, because the weights used in the training are part of the search. Test users are not read. docs/training.md
explains why the objective is not the value of the policy.

The folder contains `trials.db` (the study as SQLite, which optuna-dashboard can open) and, after each trial,
`settings.yaml` with the best settings so far.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mtorl.fitting import messages
from mtorl.fitting.search_space import SPACE, Parameter, defaults
from mtorl.fitting.settings import Settings, with_settings
from mtorl.log.columns import WindowError
from mtorl.network.messages import NO_WINDOWS
from mtorl.network.parallel import one_thread
from mtorl.network.training import TrainConfig, TrainingDiverged, train
from mtorl.runtime import progress
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing
from mtorl.runtime.locks import locked
from mtorl.runtime.messages import BUSY, START_ANEW
from mtorl.window.encoder import Encoder
from mtorl.window.loader import FolderWindows, TrainingWindows
from mtorl.window.table import WindowTable, shards

if TYPE_CHECKING:
    import optuna

STUDY, TRIALS_FILE, SETTINGS_FILE = "mtorl", "trials.db", "settings.yaml"
_LOCK = ".lock"
METRIC = "validation_loss"  # name under which a trial prints its objective

WEIGHTS = {"action": 1.0, "reward": TrainConfig.mu, "cost": TrainConfig.nu}
"""Weights of the three losses in the search's objective. They are fixed, although a trial may train with other weights.
"""

OnEpoch = Callable[[int, float], None]
"""Type of a function that is called after each epoch with the epoch's number, beginning at 1, and the validation loss
of the best weights so far."""
# The first trial has the default settings, and the next ones random settings; only after this many trials does TPE
# propose settings. No trial stops early before this many trials were completed.
_RANDOM_TRIALS = 8
_EPOCHS_AT_LEAST = 2  # epochs before a trial may stop early


class Trials:
    """Trains networks with different settings on the same windows folder."""

    def __init__(self, windows: str) -> None:
        self.windows = windows
        self._files = shards(windows)

    @cached_property
    def data(self) -> TrainingWindows:
        """The windows of training and validation users."""
        encoder, channels = self._encoder()
        return TrainingWindows(
            FolderWindows(self.windows, "train", encoder), FolderWindows(self.windows, "val", encoder), channels
        )

    def run(self, config: TrainConfig, on_epoch: OnEpoch | None = None) -> float:
        """Train a network with the given settings, and return the objective of its best epoch.

        Raises:
            WindowError: There are no training users or no validation users.
        """
        kept: dict[str, float] = {}

        def on_row(row: dict[str, float]) -> None:
            nonlocal kept
            if not kept or row["val_loss"] < kept["val_loss"]:  # the epoch whose weights the training keeps
                kept = row
            if on_epoch is not None:
                on_epoch(int(row["epoch"]), objective(kept))

        with one_thread():
            result = train(self.data, config, on_row)
        return objective(result.history[result.best_epoch - 1])

    def _encoder(self) -> tuple[Encoder, int]:
        for file in self._files:
            table = WindowTable.load(self.windows, "train", file)
            if len(table.rows):
                return Encoder.fit(table.tiles("train"), table.spec), len(table.spec.channels)
        raise WindowError(NO_WINDOWS(which="training"))


def objective(row: dict[str, float]) -> float:
    """Return the weighted sum of an epoch's validation losses."""
    return sum(weight * row[f"val_{name}"] for name, weight in WEIGHTS.items())


class SearchError(InputError, ValueError):
    """The search can't be started or continued, or none of its trials was completed."""


@dataclass(frozen=True)
class SearchConfig:
    """The length of a search, and its seed."""

    trials: int = 30  # including the trials of earlier calls
    timeout: float = 0.0  # seconds after which no trial starts; 0 for no limit
    epochs: int = TrainConfig.epochs
    seed: int = 7


@dataclass(frozen=True)
class Tried:
    """The settings and the result of a finished trial."""

    number: int  # trial 0 has the default settings
    settings: Settings
    # validation loss of the best epoch; None if the training diverged
    loss: float | None
    ended: str  # "complete", "early" or "diverged"
    epochs: int
    seconds: float


@dataclass(frozen=True)
class SearchReport:
    """All finished trials of a search, and the importance of each setting."""

    trials: list[Tried]  # including trials of earlier calls
    # Share of the loss's variance that each setting explains (fANOVA, Hutter et al. 2014). Empty if there are few
    # trials.
    importance: dict[str, float]

    @property
    def best(self) -> Tried:
        """The complete trial with the lowest loss."""
        best = _best(self.trials)
        assert best is not None, "`search` raises an error if no trial is complete"
        return best

    @property
    def default_loss(self) -> float | None:
        """The loss with the default settings; None if the training diverged."""
        return self.trials[0].loss

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can represent."""
        return {
            "best": asdict(self.best),
            "default_loss": self.default_loss,
            "importance": self.importance,
            "trials": [asdict(tried) for tried in self.trials],
            "space": [asdict(parameter) | {"default": parameter.default} for parameter in SPACE],
        }


def search(windows: str, out: str, config: SearchConfig) -> SearchReport:
    """Search for the best settings, or continue the search in the folder `out`.

    Raises:
        SearchError: The folder contains a different search, is in use, or no trial was completed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials, folder = Trials(windows), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    # A second search in the folder would treat the running trial as killed.
    with locked(folder / _LOCK, SearchError(BUSY(folder=folder, what="search"))):
        study = _study(folder, _identity(windows, config))
        for killed in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(killed.number, state=optuna.trial.TrialState.FAIL)  # its settings will be proposed again
        started = time.monotonic()
        while (done := len(_finished(study))) < config.trials:
            if done and config.timeout and time.monotonic() - started >= config.timeout:
                break
            _run(study, trials, config, done)
            _write_best(folder, study, config)
        tried = _tried(study)
    if not any(one.ended == "complete" for one in tried):
        raise SearchError(messages.NO_TRIAL())
    return SearchReport(tried, _importance(study))


def distributions() -> dict[str, optuna.distributions.BaseDistribution]:
    """Return the search space as Optuna's distribution of each setting."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    def of(parameter: Parameter) -> BaseDistribution:
        if parameter.scale == "choice":
            return CategoricalDistribution(parameter.choices)
        log = parameter.scale == "log"
        if parameter.whole:
            return IntDistribution(int(parameter.low), int(parameter.high), log=log)
        return FloatDistribution(parameter.low, parameter.high, log=log)

    return {parameter.name: of(parameter) for parameter in SPACE}


def _study(folder: Path, identity: Mapping[str, Any]) -> optuna.Study:
    import optuna
    from sqlalchemy.exc import DatabaseError

    storage = f"sqlite:///{folder.absolute() / TRIALS_FILE}"
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_RANDOM_TRIALS, n_warmup_steps=_EPOCHS_AT_LEAST)
    try:
        study = optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, pruner=pruner)
    except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
        raise SearchError(START_ANEW(file=folder / TRIALS_FILE, what="trials", reason=type(error).__name__)) from None
    known = study.user_attrs
    if differ := [name for name, value in identity.items() if known.get(name, value) != value]:
        raise SearchError(messages.OTHER_SEARCH(folder=folder, what=differ))
    for name, value in identity.items():
        study.set_user_attr(name, value)
    return study


def _identity(windows: str, config: SearchConfig) -> dict[str, Any]:
    """Return the values that a continued search must have in common, because they affect the losses of its trials."""
    manifest = json.loads(Path(windows, "manifest.json").read_text())
    files = [shard["sha256"] for shard in manifest["shards"]]
    content = json.dumps([files, Path(windows, "dataset.yaml").read_text()])
    return {
        "content of the windows": hashlib.sha256(content.encode()).hexdigest(),
        "space of settings": [repr(parameter) + f", default {parameter.default}" for parameter in SPACE],
        "number of epochs": config.epochs,
        "seed": config.seed,
    }


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    finished: list[optuna.trial.FrozenTrial]
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return finished


def _run(study: optuna.Study, trials: Trials, config: SearchConfig, done: int) -> None:
    import optuna
    from optuna.trial import TrialState

    # Seed a new sampler for each trial, so that an interrupted search proposes the same settings as an uninterrupted
    # one.
    seed = int(np.random.default_rng([config.seed, done]).integers(2**31))
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
    if not done and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(defaults())
    trial = study.ask(distributions())
    started = time.monotonic()

    def on_epoch(epoch: int, loss: float) -> None:
        trial.report(loss, epoch)
        best = _best(_tried(study))
        so_far = "" if best is None else f", best {best.loss:.4f}"
        note = f"trial {done + 1} of {config.trials}, epoch {epoch}: loss {loss:.4f}{so_far}"
        progress.report(done + epoch / config.epochs, config.trials, note)
        if epoch < config.epochs and trial.should_prune():
            raise optuna.TrialPruned

    training = with_settings(TrainConfig(epochs=config.epochs, seed=config.seed), trial.params)
    loss, ended = None, "complete"
    try:
        loss = trials.run(training, on_epoch)
    except optuna.TrialPruned:
        ended = "early"
    except TrainingDiverged:
        ended = "diverged"
    trial.set_user_attr("ended", ended)
    trial.set_user_attr("seconds", time.monotonic() - started)
    study.tell(trial, loss, state=TrialState.PRUNED if loss is None else TrialState.COMPLETE)


def _tried(study: optuna.Study) -> list[Tried]:
    def of(number: int, trial: optuna.trial.FrozenTrial) -> Tried:
        ended = trial.user_attrs["ended"]
        loss = None if ended == "diverged" else trial.value
        epochs = len(trial.intermediate_values)
        return Tried(number, dict(trial.params), loss, ended, epochs, trial.user_attrs["seconds"])

    return [of(number, trial) for number, trial in enumerate(_finished(study))]


def _best(tried: list[Tried]) -> Tried | None:
    complete = [one for one in tried if one.ended == "complete"]
    return min(complete, key=lambda one: one.loss or 0.0, default=None)


def _importance(study: optuna.Study) -> dict[str, float]:
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < _RANDOM_TRIALS:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _write_best(folder: Path, study: optuna.Study, config: SearchConfig) -> None:
    best = _best(_tried(study))
    if best is None:
        return
    head = (
        f"# Trial {best.number}: loss {best.loss:.6f} on validation users, in at most {config.epochs} epochs\n"
        f"# mtorl train WINDOWS OUT --epochs {config.epochs} --settings {SETTINGS_FILE}\n"
    )
    with replacing(folder / SETTINGS_FILE) as unfinished:
        unfinished.write_text(head + yaml.safe_dump(best.settings, sort_keys=False))
