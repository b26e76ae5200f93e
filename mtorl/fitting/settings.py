"""Chosen settings of a training, in YAML or JSON as `mtorl search` writes them, and the files that it keeps by them.

    config = with_settings(TrainConfig(epochs=15), read_settings(Path("best/settings.yaml").read_text()))
    files = KeptFiles.of(volume, windows, config, budget_share, code_version)

Only what decides how good the model becomes can be set. Epochs, seed and the machine's side (device, precision,
checkpoints) are arguments where a training is started.
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
"""Fields of `TrainConfig` that can be set."""


class SettingsError(InputError, ValueError):
    """Settings that no training can have."""


def read_settings(text: str) -> Settings:
    """Settings of a text, in YAML or JSON; an empty one has none. SettingsError for an unknown name or value."""
    try:
        values = plain_values(text)
    except ValueError as error:
        raise SettingsError(f"settings: no YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise SettingsError(f"settings: expected a mapping such as 'lr: 0.003', got {short(values)}")
    return _checked(values)


def load_settings(path: Path) -> Settings:
    """Settings of a file; SettingsError names the file."""
    try:
        return read_settings(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(UNREADABLE(file=path, what="settings", reason=error)) from None
    except SettingsError as error:
        raise SettingsError(prefixed(path, error)) from None


def parse_settings(pairs: Iterable[str]) -> Settings:
    """Settings of "name=value" words, as a command line has them; numbers in any notation."""
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
    """A training with these settings; SettingsError if they are no numbers, out of range, or do not fit together."""
    try:
        return replace(config, **settings)
    except ValidationError as error:
        fault = first_fault(error)
        raise SettingsError(prefixed("settings", fault)) from None


def _checked(values: Mapping[Any, Any]) -> Settings:
    for name, value in values.items():
        if not isinstance(name, str) or name not in NAMES:
            raise SettingsError(UNKNOWN_SETTING(name=short(name), known=NAMES))
        if isinstance(value, str) and _number(value) is not value:  # YAML takes 1e-3, without a point, for text
            raise SettingsError(f"settings: {name}: expected a number, got {short(value)}; YAML wants a point: 1.0e-3")
    config = with_settings(TrainConfig(), values)
    return {name: getattr(config, name) for name in values}


def _number(text: str) -> int | float | str:
    """The number that a text is, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


CHECKPOINT_DAYS, CURVE_DAYS = 7, 90
"""How long a file is kept after it was written last. The checkpoints of a training that ended well go at its end."""
_DAYS = {"checkpoints": CHECKPOINT_DAYS, "shared": CHECKPOINT_DAYS, "tensorboard": CURVE_DAYS}


@dataclass(frozen=True)
class KeptFiles:
    """Names of the files of a training that outlive its run; empty: it keeps none.

    The names follow from everything that decides how a training goes. So a training continues where an earlier one of
    the same data, settings and code was stopped, in any run; and two that differ in anything never share a file.
    """

    checkpoint: str  # start of the names of files
    tensorboard: str  # folder
    shared: str  # folder in which pods of other nodes find their task and leave the artifact

    @classmethod
    def of(
        cls, volume: str, windows: str, config: TrainConfig, budget_share: float, code_version: str, processes: int = 1
    ) -> KeptFiles:
        """Name the files of a training, on a volume that outlives the process; empty for none.

        The version of the code and its git revision count, and so does the number of processes that train together: a
        checkpoint of two is none for four, since their batches differ.
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
    """Remove files of unfinished trainings and old curves, by their days; returns what was removed."""
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
    """Time of the last write to an entry or anything in it; now, if another process has just removed it."""
    try:
        return max(path.stat().st_mtime for path in (entry, *entry.rglob("*")))
    except FileNotFoundError:
        return time.time()
