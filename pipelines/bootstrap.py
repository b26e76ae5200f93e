"""The first installation: from a touchpoint log to all that must be on the volume before the first decision.

    done = bootstrap(Bootstrap(volume=Path("/mnt/mtorl"), dataset="dataset.yaml"), on_step)

It calls what the steps of the training pipeline call, in their order, and leaves on the volume

    touchpoints.parquet                        the log that features are kept up to date from
    features/                                  the feature repository
    registry/{incumbent,challenger}/first/     a model for each arm, under a name that is known beforehand
    bootstrap/                                 what the steps have made: a run that was stopped goes on from there

Running it again changes nothing that is there. A challenger that the gate rejects is not published: then both arms
start with the incumbent's model, which is an A/A test, until a training run passes the gate.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from features.ingest.ingest import saying_way_on
from features.ingest.log_folder import RawLog, ingest
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import DATASET_FILE, LOG_FILE
from mtorl.runtime import progress
from mtorl.runtime.files import remove, replacing
from pipelines.settings import TrainingSettings
from pipelines.steps import OnStep, Step, StepTimes
from serving.registry import FIRST, check_kind, publish, published_digest

ARMS = ("incumbent", "challenger")
QUARANTINE = "quarantine.csv"


class BootstrapError(RuntimeError):
    """The volume can't be set up; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Bootstrap(TrainingSettings):
    """What to set up.

    Attributes:
        volume: Folder of the data volume.
        log: The raw log; empty: the volume's touchpoints.parquet.
        simulate: Whether to write a simulated log where there is none. Its last day is today.
    """

    volume: Path
    log: str = ""
    simulate: bool = False

    @property
    def touchpoints(self) -> Path:
        """The log on the volume."""
        return self.volume / LOG_FILE

    def first(self, arm: str) -> Path:
        """Folder of an arm's first model."""
        return self.volume / "registry" / arm / FIRST


@dataclass(frozen=True)
class Bootstrapped:
    """What there is now.

    Attributes:
        digests: Of each arm's first model.
        published: Arms whose first model this run has made; the others were there.
        gate: "promote" or "reject"; empty if all was there.
    """

    digests: dict[str, str]
    published: tuple[str, ...] = ()
    gate: str = ""


def bootstrap(config: Bootstrap, on_step: OnStep) -> Bootstrapped:
    """Set up the volume, as far as it is not set up yet.

    Args:
        config: What to set up.
        on_step: Told of each step.

    Raises:
        BootstrapError: The volume can't be written, is set up for other data, or another process is at it; or there
            is no log.
        RegistryError: The registry holds models of other data.
        LogError, SpecError: The log or its description can't be used.
    """
    spec = DatasetSpec.load(config.dataset)
    if config.simulate and not spec.simulated:
        raise BootstrapError(f"--simulate: {spec.name!r} is not the simulator's data set; leave out one or the other")
    check_kind(config.volume / "registry", spec.simulated)
    for arm in ARMS:
        _check_same_data(config.first(arm), spec)
    if (config.volume / "features" / "registry.db").exists():
        digests = {arm: published_digest(config.first(arm)) for arm in ARMS}
        if all(digests.values()):
            return Bootstrapped({arm: str(digest) for arm, digest in digests.items()})
    with _alone(config.volume) as folder:
        return _set_up(config, folder, StepTimes(on_step))


def _set_up(config: Bootstrap, folder: Path, times: StepTimes) -> Bootstrapped:
    from features.offline.installation import REGISTRY, install, without_sources
    from features.offline.store import build_training_data
    from mtorl.baselines.lightgbm import fit_outcomes
    from mtorl.evaluation.offline import evaluate_offline, gate_from_file
    from mtorl.fitting.fit import fit_challenger, fit_incumbent
    from mtorl.network.training import TrainConfig
    from serving.archive import package

    def made_once(path: Path, name: str, title: str, make: Callable[[Path], object]) -> Path:
        def on_progress(done: float, total: float, note: str) -> None:
            times(Step(name, title), min(done, 0.99 * total), total, note)  # the step is over when it has been written

        with times.step(name, title), progress.listen(on_progress):
            if not path.exists():
                make(path)
        return path

    with times.step("ingest", "read and validate the log"):
        log, work = _ingested(config, folder)
    windows = made_once(
        work / "windows",
        "build-features",
        "Feast features and causal windows",
        lambda path: _whole(path, lambda unfinished: build_training_data(log, work / "features", unfinished)),
    )
    incumbent = made_once(
        work / "incumbent", "fit-incumbent", "fit the incumbent", lambda path: fit_incumbent(str(windows), str(path))
    )
    training = TrainConfig(epochs=config.epochs, seed=config.seed)
    challenger = made_once(
        work / "challenger",
        "train-challenger",
        "train MTORL",
        lambda path: fit_challenger(
            str(windows), str(path), training, config.budget_share, str(work / "checkpoint.pt"), ""
        ),
    )
    evaluation = made_once(
        work / "evaluation.json",
        "evaluate",
        "evaluate offline",
        lambda path: _write_json(
            path,
            evaluate_offline(
                str(windows), str(challenger), str(incumbent), config.budget_share, config.seed, fit_outcomes
            ),
        ),
    )
    with times.step("install-features", "install the features"):
        if not (config.volume / "features" / REGISTRY).exists():  # else it serves: later pipelines change it
            without_sources(work / "features")
            install(work / "features", config.volume / "features")
    gate, reason = gate_from_file(str(evaluation), config.min_lift)
    print(f"gate: {gate}: {reason}")
    models = {"incumbent": incumbent, "challenger": challenger if gate == "promote" else incumbent}
    with times.step("publish", "publish to the registry"):
        if not config.touchpoints.exists():
            copy = shutil.copytree if (log / LOG_FILE).is_dir() else shutil.copyfile
            _whole(config.touchpoints, lambda unfinished: copy(log / LOG_FILE, unfinished))
        published = [arm for arm in ARMS if published_digest(config.first(arm)) is None]
        for arm in published:
            archive = package(models[arm], arm, work / "model-store")
            publish(models[arm], archive, config.volume / "registry", arm, FIRST)
    remove(work / "windows")  # large, and of no more use, as is what an earlier log or a stopped run has left
    for path in folder.iterdir():
        if path not in (work, folder / "lock", folder / QUARANTINE):
            remove(path)
    return Bootstrapped({arm: str(published_digest(config.first(arm))) for arm in ARMS}, tuple(published), gate)


def _check_same_data(version: Path, spec: DatasetSpec) -> None:
    """A volume is set up for one data set: what serves on it would not know the channels of another."""
    description = version / "artifact" / DATASET_FILE
    if description.exists() and (name := DatasetSpec.load(description).name) != spec.name:
        raise BootstrapError(
            f"{version} is a model of the data set {name!r}, not of {spec.name!r}: set up another volume for it "
            "(docs/cluster.md, Uninstall), or publish its models as further versions, by mtorl-train"
        )


def _ingested(config: Bootstrap, folder: Path) -> tuple[Path, Path]:
    """Read the log; returns its folder, and the folder for what is made of this log with these settings."""
    source = Path(config.log) if config.log else config.touchpoints
    if config.simulate and not source.exists():
        source = folder / "simulated.parquet"
        if not source.exists():
            _simulate(source, config)
    if not source.exists():
        raise BootstrapError(
            f"no touchpoint log at {source}: put one there in the layout of docs/data.md, name another with --log, "
            "or say --simulate to try everything on simulated users"
        )
    log = folder / "log"
    remove(log)
    users = 0 if source.parent == folder else config.users
    raw = RawLog(str(source), config.dataset, config.bad_rows, users, config.seed)
    with saying_way_on(folder / QUARANTINE, config.bad_rows):
        report = ingest(raw, log, folder / QUARANTINE)
    description = (log / DATASET_FILE).read_text()
    settings = (report.fingerprint, description, config.epochs, config.seed, config.budget_share, config.users)
    work = folder / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    work.mkdir(exist_ok=True)
    return log, work


def _simulate(path: Path, config: Bootstrap) -> None:
    from mtorl.simulator.raw_log import write_raw_log
    from mtorl.simulator.simulator import SimulatorConfig

    market = SimulatorConfig(users=config.users or SimulatorConfig.users, seed=config.seed)
    first_day = datetime.now(UTC).date() - timedelta(days=market.days)
    write_raw_log(path, replace(market, start=first_day.isoformat()))


@contextmanager
def _alone(volume: Path) -> Iterator[Path]:
    """The folder of the bootstrap, which one process at a time may work in."""
    folder = volume / "bootstrap"
    if not volume.is_dir():
        raise BootstrapError(f"{volume} is not there: mount the data volume, or name its folder: --volume")
    for path in (volume, folder, volume / "registry", volume / "features"):
        if path.exists() and not os.access(path, os.W_OK | os.X_OK):
            raise BootstrapError(_why_not(path))
    folder.mkdir(exist_ok=True)
    lock = (folder / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BootstrapError(f"another bootstrap works in {folder}: wait for it") from None
        yield folder


def _why_not(path: Path) -> str:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} is mounted read-only: the bootstrap writes to it"
    owner = path.stat()
    return (
        f"{path} can't be written by user {os.getuid()} in group {os.getgid()}: it belongs to "
        f"{owner.st_uid}:{owner.st_gid}, mode {stat.S_IMODE(owner.st_mode):o}. Whoever provides a volume to which "
        "Kubernetes does not apply fsGroup, such as NFS, must give it to 10001:10001, with mode 2775 (docs/cluster.md)"
    )


def _whole(path: Path, make: Callable[[Path], object]) -> None:
    """Make a file or a folder that is there completely or not at all."""
    with replacing(path) as unfinished:
        make(unfinished)


def _write_json(path: Path, content: object) -> None:
    _whole(path, lambda unfinished: unfinished.write_text(json.dumps(content, indent=2)))
