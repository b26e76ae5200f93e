"""Parses the location of a ledger: a path, or the URL of a Redis server."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

PASSWORD = "MTORL_LEDGER_PASSWORD"


@dataclass(frozen=True)
class RedisLocation:
    """The address of a Redis server and the name of a ledger on it."""

    host: str
    port: int
    database: int
    username: str | None
    tls: bool
    name: str
    cluster: bool = False

    def __str__(self) -> str:
        return f"ledger {self.name!r} on {self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse `redis[s][+cluster]://[user@]host[:port][/database][?name=NAME]`; raises ValueError."""
        try:
            parts = urlsplit(url)
            port = parts.port or 6379
            database = int(parts.path.strip("/") or 0)
            query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
            scheme, _, kind = parts.scheme.partition("+")
            if scheme not in ("redis", "rediss") or kind not in ("", "cluster") or not parts.hostname or parts.fragment:
                raise ValueError
        except ValueError:  # the original message may contain a password
            raise ValueError("not a path or a URL of the form redis://host:port/database?name=NAME") from None
        if parts.password is not None:
            raise ValueError(f"the URL must not have a password: set the environment variable {PASSWORD}")
        if set(query) - {"name"}:
            raise ValueError(f"unknown in the URL: {', '.join(sorted(set(query) - {'name'}))}; known: name")
        name = query.get("name", ["default"])[-1]
        # A brace in the name would end the hash tag of Redis keys.
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise ValueError(f"name: expected letters, digits, '.', '_' and '-', got {name!r}")
        username = unquote(parts.username) if parts.username else None
        if kind and database:
            raise ValueError("a Redis Cluster has no databases: leave the number out")
        return cls(parts.hostname, port, database, username, scheme == "rediss", name, bool(kind))


def locate(where: str | Path) -> Path | RedisLocation:
    """Parse a path or the URL of a Redis server; raises ValueError."""
    return Path(where) if isinstance(where, Path) or "://" not in where else RedisLocation.parse(where)
