"""Moves a feature repository from the step that made it to the folder where servers and jobs look for it.

    without_sources(made)                       # leaves the registry and its settings
    install(made, "/mnt/mtorl/features")

The sources of the features stay behind: `features.offline.store.refresh` makes them of the log.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from features.offline.store import CONFIG
from mtorl.runtime.files import remove, replacing

REGISTRY, ONLINE = "registry.db", "online.db"
_DEFINITIONS = (
    "entities",
    "data_sources",
    "feature_views",
    "on_demand_feature_views",
    "stream_feature_views",
    "feature_services",
)


def without_sources(repository: Path) -> None:
    """Remove the sources from a repository with a registry and an online store in files of its own."""
    remove(repository / "data")
    with closing(sqlite3.connect(repository / ONLINE)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all of it is in one file then


def install(made: Path, root: Path) -> bool:
    """Put definitions into a folder that servers and jobs mount; its settings and its online store stay.

    Readers find the previous registry or the new one, never half of one. Returns whether the registry was replaced: not
    if it has the same definitions.
    """
    for name in (CONFIG.name, ONLINE):
        if not (root / name).exists():
            _copy(made / name, root / name)
    if (root / REGISTRY).exists() and _definitions(root / REGISTRY) == _definitions(made / REGISTRY):
        return False
    _copy(made / REGISTRY, root / REGISTRY)
    return True


def _copy(source: Path, target: Path) -> None:
    with replacing(target, durable=True) as unfinished:
        shutil.copyfile(source, unfinished)


def _definitions(registry: Path) -> dict[str, set[bytes]]:
    from feast.protos.feast.core.Registry_pb2 import Registry

    content = Registry()
    content.ParseFromString(registry.read_bytes())
    return {name: {_without_times(message) for message in getattr(content, name)} for name in _DEFINITIONS}


def _without_times(message: Message) -> bytes:
    _clear_times(message)
    return bytes(message.SerializeToString(deterministic=True))


def _clear_times(message: Message) -> None:
    for field, value in message.ListFields():
        if isinstance(value, Timestamp):
            message.ClearField(field.name)
        elif isinstance(value, Message):
            _clear_times(value)
        elif field.message_type is not None:  # a list of messages, or a mapping, perhaps to messages
            for inner in value.values() if field.message_type.GetOptions().map_entry else value:
                if isinstance(inner, Message):
                    _clear_times(inner)
