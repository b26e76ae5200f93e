"""Reads the settings of a training from YAML, JSON or a command line, and names the files that a training keeps.

Settings are those fields of `TrainConfig` that affect the quality of the model, such as the learning rate.
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
"""Fields of `TrainConfig` that a settings file may contain."""


class SettingsError(InputError, ValueError):
    """A setting has an unknown name or an invalid value. The message names the setting."""


def read_settings(text: str) -> Settings:
    """Read settings from a YAML or JSON text. An empty text contains no settings.

    Raises:
        SettingsError: The text is malformed, or a setting has an unknown name or an invalid value.
    """
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
    """Read settings from a YAML or JSON file.

    Raises:
        SettingsError: The file can't be read or contains an invalid setting. The message names the file.
    """
    try:
        return read_settings(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(UNREADABLE(file=path, what="settings", reason=error)) from None
    except SettingsError as error:
        raise SettingsError(prefixed(path, error)) from None


def parse_settings(pairs: Iterable[str]) -> Settings:
    """Read settings from arguments of a command line, such as "lr=1e-3".

    Raises:
        SettingsError: An argument is malformed or is given twice, or a setting is invalid.
    """
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
    """Return a copy of `config` with these settings.

    Raises:
        SettingsError: A setting is not a number or is out of range, or settings contradict each other.
    """
    try:
        return replace(config, **settings)
    except ValidationError as error:
        fault = first_fault(error)
        raise SettingsError(prefixed("settings", fault)) from None


def _checked(values: Mapping[Any, Any]) -> Settings:
    for name, value in values.items():
        if not isinstance(name, str) or name not in NAMES:
            raise SettingsError(UNKNOWN_SETTING(name=short(name), known=NAMES))
        if isinstance(value, str) and _number(value) is not value:  # YAML reads 1e-3 as text, and 1.0e-3 as a number
            raise SettingsError(f"settings: {name}: expected a number, got {short(value)}; write a point: 1.0e-3")
    config = with_settings(TrainConfig(), values)
    return {name: getattr(config, name) for name in values}


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


CHECKPOINT_DAYS, CURVE_DAYS = 7, 90
"""Days after the last write until checkpoints and learning curves are deleted. A training that succeeds deletes its
checkpoints at once."""
_DAYS = {"checkpoints": CHECKPOINT_DAYS, "shared": CHECKPOINT_DAYS, "tensorboard": CURVE_DAYS}


@dataclass(frozen=True)
class KeptFiles:
    """The paths of files that stay on a volume after a training was killed; "" if there is no volume.

    Each path contains a hash of data, settings and code, so that only the same training reads the file.
    """

    checkpoint: str  # prefix of the checkpoint files
    tensorboard: str  # folder of the TensorBoard metrics
    shared: str  # folder shared with pods on other nodes

    @classmethod
    def of(
        cls, volume: str, windows: str, config: TrainConfig, budget_share: float, code_version: str, processes: int = 1
    ) -> KeptFiles:
        """Return the paths for a training.

        Args:
            volume: Folder of the volume; "" for no volume.
            processes: Number of processes that train together. Another number gives other batches, so other paths.
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
    """Remove files that have not been written for some days (`_DAYS`), and return their paths."""
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
    """Return when a file or a folder's content was last modified, or the current time if another process removed it."""
    try:
        return max(path.stat().st_mtime for path in (entry, *entry.rglob("*")))
    except FileNotFoundError:
        return time.time()
