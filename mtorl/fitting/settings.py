"""Chosen settings of a training: a mapping in YAML or JSON, as `mtorl search` writes it.

    config = with_settings(TrainConfig(epochs=15), read_settings(Path("best/settings.yaml").read_text()))

Only what decides how good the model becomes can be set. Epochs, seed and the machine's side (device, precision,
checkpoints) are arguments where a training is started.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtorl.network.training import TrainConfig
from mtorl.runtime.validation import plain_values, short

Settings = dict[str, int | float]

NAMES = (
    "lr",
    "weight_decay",
    "batch_size",
    "accumulate",
    "hidden",
    "levels",
    "heads",
    "dropout",
    "mu",
    "nu",
    "lam",
    "averaging",
    "clip",
    "patience",
)
"""Fields of `TrainConfig` that can be set."""


class SettingsError(ValueError):
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
        raise SettingsError(f"{path}: cannot read settings: {error}") from None
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


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


def with_settings(config: TrainConfig, settings: Settings) -> TrainConfig:
    """A training with these settings; SettingsError if they are out of range, or do not fit together."""
    try:
        return replace(config, **settings)  # type: ignore[arg-type]
    except ValueError as error:
        raise SettingsError(f"settings: {error}") from None


def _checked(values: Mapping[Any, object]) -> Settings:
    found: Settings = {}
    for name, value in values.items():
        if not isinstance(name, str) or name not in NAMES:
            raise SettingsError(f"settings: unknown name {short(name)}; known: {', '.join(NAMES)}")
        whole = isinstance(getattr(TrainConfig(), name), int)
        # YAML takes 1e-3, without a point, for text.
        hint = "; YAML wants a point: 1.0e-3" if isinstance(value, str) and _number(value) is not value else ""
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            kind = "a whole number" if whole else "a number"
            raise SettingsError(f"settings: {name}: expected {kind}, got {short(value)}{hint}")
        if not math.isfinite(value):
            raise SettingsError(f"settings: {name}: expected a finite number, got {value}")
        found[name] = value if whole else float(value)
    return found


def _number(text: str) -> int | float | str:
    """The number that a text is, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
