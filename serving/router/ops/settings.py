"""The router's settings: one YAML, read at start.

```yaml
port: 8080
experiment: experiment.yaml      # re-read when it changes; relative paths start at this file's folder
dataset: dataset.yaml
feature_repo: features           # folder with feature_store.yaml
ledger: ledger.sqlite            # or redis://host:6379/0?name=ads, with its password in MTORL_LEDGER_PASSWORD;
                                 # the variable MTORL_LEDGER comes first
spool: spool
cost_cap: {search: 0.6, video: 0.05}     # highest possible cost of an exposure: what is reserved
auth: {kind: token, file: token.txt}     # who may come in: see auth.py; {kind: none} only where nobody else can
reservation_ttl_hours: 24        # a reservation of which no cost was reported by then is given back
sink: http://collector/events    # where the log is shipped to, or a folder for Parquet files; K_SINK comes first
```
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Self

import yaml

from serving.decision_log.spool import MAX_BYTES
from serving.ledger import locate

_PATHS = ("experiment", "dataset", "feature_repo", "spool")


class SettingsError(ValueError):
    """A setting is wrong; the message names it."""


@dataclass(frozen=True)
class RouterSettings:
    """Settings of one router process."""

    port: int  # 0 takes a free one
    experiment: Path
    dataset: Path
    feature_repo: Path
    ledger: Path | str  # a str is the URL of a Redis
    spool: Path
    cost_cap: Mapping[str, float]
    auth: Mapping[str, Any]
    feature_service: str = "ad_decision_v1"
    deadline_ms: float = 50.0  # for a decision, all stages together
    reservation_ttl_hours: float = 24.0  # longer than a cost may take to be reported
    model_name: str = "ads"
    host: str = "127.0.0.1"  # 0.0.0.0 in a container
    grpc_port: int | None = None  # v2 over gRPC as well; none: REST alone
    max_body_bytes: int = 1 << 20  # larger requests are refused
    max_in_flight: int = 64  # requests at work at once; the others are asked to come again
    drills: bool = False  # faults can be made on purpose, at /v1/drills
    sink: str | None = None  # URL or folder; None: the log stays in the spool, for good
    keep_hours: float = 168.0  # age at which the spool may forget what is shipped
    spool_max_bytes: int = MAX_BYTES  # beyond it decisions take the default action, and outcomes are to be sent again

    def __post_init__(self) -> None:
        for name in ("port", "grpc_port"):
            value = getattr(self, name)
            if not (name == "grpc_port" and value is None) and not (_is_whole(value) and 0 <= value < 65536):
                raise SettingsError(f"{name}: expected a number between 0 and 65535, got {value!r}")
        for name in ("max_body_bytes", "max_in_flight"):
            if not _is_whole(getattr(self, name)) or getattr(self, name) < 1:
                raise SettingsError(f"{name}: expected a whole number of at least 1, got {getattr(self, name)!r}")
        if not isinstance(self.drills, bool):
            raise SettingsError(f"drills: expected true or false, got {self.drills!r}")
        for name in _PATHS:
            if not isinstance(getattr(self, name), Path):
                raise SettingsError(f"{name}: expected a path, got {getattr(self, name)!r}")
        try:
            if not isinstance(self.ledger, Path | str) or not str(self.ledger):
                raise ValueError(f"expected a path or the URL of a Redis, got {self.ledger!r}")
            locate(self.ledger)
        except ValueError as error:
            raise SettingsError(f"ledger: {error}") from None
        for name in ("feature_service", "model_name", "host"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise SettingsError(f"{name}: expected text, got {getattr(self, name)!r}")
        for name in ("deadline_ms", "reservation_ttl_hours"):
            if not _is_number(getattr(self, name)) or getattr(self, name) <= 0:
                raise SettingsError(f"{name}: expected a number above 0, got {getattr(self, name)!r}")
        if self.sink is not None and (not isinstance(self.sink, str) or not self.sink):
            raise SettingsError(f"sink: expected a URL or a folder, got {self.sink!r}")
        if self.sink and "://" in self.sink and not self.sink.startswith(("http://", "https://")):
            raise SettingsError(f"sink: expected an http or https URL, got {self.sink!r}")
        if not _is_number(self.keep_hours) or self.keep_hours < 0:
            raise SettingsError(f"keep_hours: expected a number of at least 0, got {self.keep_hours!r}")
        size = self.spool_max_bytes
        if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
            raise SettingsError(f"spool_max_bytes: expected a number above 0, got {size!r}")
        if not isinstance(self.cost_cap, Mapping) or not self.cost_cap:
            raise SettingsError(f"cost_cap: expected a cost for each channel, got {self.cost_cap!r}")
        for channel, cap in self.cost_cap.items():
            if not isinstance(channel, str) or not _is_number(cap) or cap < 0:
                raise SettingsError(f"cost_cap: expected a number of at least 0 for {channel!r}, got {cap!r}")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the settings.

        Raises:
            SettingsError: the file can't be read, is not YAML, or a setting is wrong.
        """
        path = Path(path)
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"{path}: cannot read the router's settings: {error}") from error
        try:
            return cls(**_settings(data, cls, path.parent))
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}") from None


def _settings(data: object, cls: type[RouterSettings], folder: Path) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise SettingsError(f"expected a mapping of settings, got {data!r}")
    known = {f.name: f.default is MISSING for f in fields(cls)}
    for name in data:
        if name not in known:
            raise SettingsError(f"unknown setting {name!r}; known: {', '.join(known)}")
    for name, required in known.items():
        if required and name not in data:
            raise SettingsError(f"missing setting {name!r}")
    for name in ("ledger", "sink"):
        if value := os.environ.get(f"MTORL_{name.upper()}"):
            data = {**data, name: value}
    found = {k: (folder / v).absolute() if _is_path(k, v) else v for k, v in data.items()}
    if isinstance(found["auth"], Mapping) and isinstance(found["auth"].get("file"), str):
        found["auth"] = {**found["auth"], "file": str((folder / found["auth"]["file"]).absolute())}
    if isinstance(found.get("sink"), str) and found["sink"] and "://" not in found["sink"]:
        found["sink"] = str((folder / found["sink"]).absolute())
    return found


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_path(name: str, value: object) -> bool:
    return isinstance(value, str) and (name in _PATHS or (name == "ledger" and value != "" and "://" not in value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
