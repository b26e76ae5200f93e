"""Changes the models of `mtorl serve` after a promotion or a rollback.

    STATE/models/incumbent.mar                 symlink to the served version
    STATE/models/incumbent.json                record of the newest promotion
    STATE/models/versions/0a1b2c3d4e5f.mar     versions of a promotion, kept even if their run is removed

The record is written before the symlink is changed. If the process crashes in between, the next call changes the
symlink.
"""

import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import ExperimentError
from mtorl.experiment.history import newest_promotion, replaced_by
from mtorl.experiment.stage_machine import STAGES
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing
from mtorl.runtime.message import Message, prefixed
from pipelines import messages
from pipelines.experiments.controller import state as state_of
from pipelines.experiments.folder import ExperimentFolder, named_by_router
from pipelines.experiments.handover import Neighbour, Standing, hand_over
from serving.archive import version_of
from serving.local.stack import archives
from serving.model_servers import Mark, Served

_PATH = re.compile(r"/v1/models/([^/:]+):predict")


@dataclass(frozen=True)
class LocalServers:
    """The model servers of one `mtorl serve`.

    Attributes:
        run: Folder of the run whose models are served.
        state: State folder. Its versions replace those of the run.
        restart: Function that restarts the servers. None means that they have not started yet.
    """

    applied: ClassVar[bool] = False
    run: Path
    state: Path
    port: int
    restart: Callable[[], None] | None = None

    def name_at(self, url: str | None) -> str | None:
        """Return the model that answers at a URL, or None."""
        parts = urlsplit(url or "")
        model = _PATH.fullmatch(parts.path)
        here = parts.hostname in ("127.0.0.1", "localhost") and parts.port == self.port
        return model[1] if here and model is not None and f"{model[1]}.mar" in self._archives() else None

    def for_incumbent(self, url: str | None) -> str | None:
        """Return the URL of the incumbent's model beside a challenger's URL, or None."""
        if url is None or self.name_at(url) is None:
            return None
        own = urlsplit(url)._replace(path=f"/v1/models/{INCUMBENT}:predict").geturl()
        return own if self.name_at(own) is not None else None

    def served(self, name: str) -> Served | None:
        """Return the version served under a name, or None. Raises ArchiveError if a file is unreadable."""
        archive = self._archives().get(f"{name}.mar")
        return None if archive is None else Served(version_of(archive), "", self._mark(name))

    def serve(self, name: str, version: str, mark: Mark | None = None, instead_of: str | None = None) -> None:
        """Serve a version under a name, and restart running servers. Raises OSError if the version can't be copied."""
        assert mark is not None and instead_of is None, "locally, only a promotion changes the served version"
        versions = self.state / "models" / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        known = {version_of(archive): archive for archive in self._archives().values()}
        for kept in {version, mark.before, mark.after}:
            if kept in known and not (target := versions / f"{kept}.mar").exists():
                with replacing(target, durable=True) as unfinished:
                    shutil.copyfile(known[kept], unfinished)
        if not (versions / f"{version}.mar").exists():
            raise FileNotFoundError(f"version {version} is neither in {versions} nor in {self.run}")
        with replacing(self.state / "models" / f"{name}.json", durable=True) as unfinished:
            unfinished.write_text(mark.model_dump_json())
        with replacing(self.state / "models" / f"{name}.mar") as unfinished:
            unfinished.symlink_to(Path("versions") / f"{version}.mar")
        if self.restart is not None:
            self.restart()

    def _archives(self) -> dict[str, Path]:
        return archives(self.run, self.state)

    def _mark(self, name: str) -> Mark | None:
        path = self.state / "models" / f"{name}.json"
        try:
            return Mark.model_validate_json(path.read_text()) if path.exists() else None
        except ValueError:
            # A person has edited the file, so ignore it.
            return None


def settle(folders: Sequence[ExperimentFolder], run: Path, state: Path, port: int) -> list[Message]:
    """Apply promotions and rollbacks before the model servers start, and return a message about each promotion.

    A promoted model belongs to the run that was served last, and `run` may be another run.

    Raises:
        ExperimentError: The promoted model is no longer available.
    """
    before = _served_before(run, state)
    servers, states = LocalServers(before, state, port), []
    for folder in folders:
        promotion = newest_promotion(folder.events())
        if promotion is None:
            continue
        about = {"file": folder.file, "challenger": promotion.event.challenger}
        if not (promotion.rolled_back or promotion.handed_over or (before / "model-store").is_dir()):
            raise ExperimentError(messages.MODEL_GONE(**about, run=before, before=before))
        if (standing := _settle(folder, folders, servers)) is not None:
            states.append(standing.words)
        if _answers_otherwise(folder, servers, LocalServers(run, state, port)):
            raise ExperimentError(messages.MODEL_GONE(**about, run=run, before=before))
    return states


def _served_before(run: Path, state: Path) -> Path:
    """Return the run that was served last, or `run` if its folder was moved."""
    described = named_by_router(state, "dataset")
    moved = run.resolve() in state.resolve().parents
    return run if described is None or moved else Path(described).parents[2]


def _answers_otherwise(folder: ExperimentFolder, before: LocalServers, after: LocalServers) -> bool:
    serving, promotion = folder.last_in_force(), newest_promotion(folder.events())
    if serving is None or promotion is None or promotion.rolled_back or promotion.handed_over:
        return False
    name = before.name_at(serving.arm(INCUMBENT).url)
    return name is not None and after.served(name) != before.served(name)


def follow_rollbacks(folders: Sequence[ExperimentFolder], servers: LocalServers) -> Message | None:
    """Apply rollbacks while the servers run, and return the last error, or None."""
    fault = None
    for folder in folders:
        try:
            promotion = newest_promotion(folder.events())
            if promotion is not None and promotion.rolled_back:
                _settle(folder, folders, servers)
        except (InputError, OSError) as error:
            fault = prefixed("", error)
    return fault


def _settle(folder: ExperimentFolder, folders: Sequence[ExperimentFolder], servers: LocalServers) -> Standing | None:
    # The second call of `hand_over` records the first call's change in the history.
    for _ in range(2):
        others = (neighbour(other) for other in folders if other is not folder)
        standing = hand_over(folder, servers, others, time.time(), late=True)
    return standing


def neighbour(folder: ExperimentFolder) -> Neighbour:
    """Describe an experiment for another experiment that needs the same model server."""
    experiment, found = state_of(folder)
    # Without a ramp, the router reads the experiment file itself until the first move.
    by_hand = experiment.ramp is None and not folder.events()
    serving = experiment if by_hand else folder.last_in_force() or experiment
    goes_on = experiment.enabled if by_hand else found.phase in STAGES
    return Neighbour(serving, over=not goes_on, before=replaced_by(folder.events()))
