"""A real Redis server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import pytest
import redis

from serving.local.ports import free_ports


@contextmanager
def redis_server(folder: Path, port: int = 0, appendonly: str = "no", **settings: str) -> Iterator[int]:
    """Start a server that keeps nothing, unless told to; gives its port.

    Args:
        folder: Where it may keep something.
        port: A free one if none is named.
        appendonly: "yes": it keeps what it is told.
        settings: Further ones of redis.conf, with "_" for "-".
    """
    binary = which("redis-server")
    if binary is None:
        pytest.fail("redis-server is missing; apt install redis-server")
    port = port or free_ports(1)[0]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    for name, value in {"appendonly": appendonly, **settings}.items():
        command += [f"--{name.replace('_', '-')}", value]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(
            port=port,
            password=settings.get("requirepass"),
            retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200),
        )
        client.ping()
        client.close()
        yield port
    finally:
        server.terminate()
        server.wait(10)
