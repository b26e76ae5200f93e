"""Reads the settings of a training, in YAML or JSON as written by `mtorl search`, and names its files on a volume.

    config = with_settings(TrainConfig(epochs=15), read_settings(Path("best/settings.yaml").read_text()))
    files = KeptFiles.of(volume, windows, config, budget_share, code_version)

Settings are the fields of `TrainConfig` on which the model's quality depends. Epochs, seed, device, precision and
checkpoints are not settings but arguments of the command or step that trains.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtorl.fitting.messages import UNKNOWN_SETTING
from mtorl.network.training import TrainConfig
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import remove
from mtorl.runtime.message import prefixed
from mtorl.runtime.messages import UNREADABLE
from mtorl.runtime.validation import first_fault, plain_values, short

Settings = dict[str, int | float]

NAMES = (
    *("lr", "weight_decay", "batch_size", "hidden", "levels", "heads", "dropout"),
    *("mu", "nu", "lam", "averaging", "clip", "patience"),
)
"""Fields of `TrainConfig` that are settings."""


class SettingsError(InputError, ValueError):
    """Settings are invalid; the message names the setting."""


def read_settings(text: str) -> Settings:
    """Settings from a YAML or JSON text, which may be empty; SettingsError for an unknown name or invalid value."""
    try:
        values = plain_values(text)
    except ValueError as error:
        raise SettingsError(f"settings: not YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise SettingsError(f"settings: expected a mapping such as 'lr: 0.003', got {short(values)}")
    return _checked(values)


def load_settings(path: Path) -> Settings:
    """Settings from a file; SettingsError names the file."""
    try:
        return read_settings(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(UNREADABLE(file=path, what="settings", reason=error)) from None
    except SettingsError as error:
        raise SettingsError(prefixed(path, error)) from None


def parse_settings(pairs: Iterable[str]) -> Settings:
    """Settings from "name=value" arguments of a command line; numbers in any notation."""
    values: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise SettingsError(f"settings: expected NAME=VALUE, got {pair!r}")
        if name in values:
            raise SettingsError(f"settings: {name} is given twice")
        values[name] = _number(text)
    return _checked(values)


def with_settings(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """A config with these settings; SettingsError if they are not numbers, out of range, or inconsistent."""
    try:
        return replace(config, **settings)
    except ValidationError as error:
        fault = first_fault(error)
        raise SettingsError(prefixed("settings", fault)) from None


def _checked(values: Mapping[Any, Any]) -> Settings:
    for name, value in values.items():
        if not isinstance(name, str) or name not in NAMES:
            raise SettingsError(UNKNOWN_SETTING(name=short(name), known=NAMES))
        if isinstance(value, str) and _number(value) is not value:  # in YAML, 1e-3 without a point is text
            raise SettingsError(f"settings: {name}: expected a number, got {short(value)}; write a point: 1.0e-3")
    config = with_settings(TrainConfig(), values)
    return {name: getattr(config, name) for name in values}


def _number(text: str) -> int | float | str:
    """The text as a number if possible, else unchanged."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


CHECKPOINT_DAYS, CURVE_DAYS = 7, 90
"""Days for which a file is kept after its last write. A training that succeeds removes its checkpoints."""
_DAYS = {"checkpoints": CHECKPOINT_DAYS, "shared": CHECKPOINT_DAYS, "tensorboard": CURVE_DAYS}


@dataclass(frozen=True)
class KeptFiles:
    """Paths of a training's files that outlive the run; empty texts if there are no such files.

    The names contain a digest of everything that affects the training. So a training continues where an earlier run
    with the same data, settings and code was stopped, and different trainings never share a file.
    """

    checkpoint: str  # prefix of the paths of checkpoints
    tensorboard: str  # folder
    shared: str  # folder in which pods on other nodes read their task and write the artifact

    @classmethod
    def of(
        cls, volume: str, windows: str, config: TrainConfig, budget_share: float, code_version: str, processes: int = 1
    ) -> KeptFiles:
        """Name the files of a training on a volume that outlives the process; no files if `volume` is "".

        The names also depend on the version and git revision of the code, and on the number of processes, because four
        processes can't continue from a checkpoint of two processes, whose batches differ.
        """
        if not volume:
            return cls("", "", "")
        from mtorl.fitting.fit import git_revision

        manifest = json.loads(Path(windows, "manifest.json").read_text())
        what = {
            "windows": manifest["content_sha256"],
            "dataset": Path(windows, "dataset.yaml").read_text(),
            "config": asdict(config),
            "budget_share": budget_share,
            "code": [code_version, git_revision()],
            "processes": processes,
        }
        name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        return cls(f"{volume}/checkpoints/{name}.pt", f"{volume}/tensorboard/{name}", f"{volume}/shared/{name}")


def prune(volume: str, now: float | None = None) -> list[Path]:
    """Remove old files of unfinished trainings and old curves (see `_DAYS`); returns the removed paths."""
    if not volume:
        return []
    now = time.time() if now is None else now
    removed = []
    for folder, days in _DAYS.items():
        for entry in sorted(Path(volume, folder).glob("*")):
            if now - _last_written(entry) > days * 86_400:
                remove(entry)
                removed.append(entry)
    return removed


def _last_written(entry: Path) -> float:
    """Time of the last write to a file, or to a folder and its content; now, if another process has removed it."""
    try:
        return max(path.stat().st_mtime for path in (entry, *entry.rglob("*")))
    except FileNotFoundError:
        return time.time()
