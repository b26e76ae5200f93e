"""A real Redis server, and a real Redis Cluster."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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


@contextmanager
def redis_cluster(folder: Path, nodes: int = 3, **settings: str) -> Iterator[list[int]]:
    """Start a cluster of primaries; gives their ports."""
    with ExitStack() as servers:
        ports = []
        for node in range(nodes):
            own = folder / f"node-{node}"
            own.mkdir()
            bus = str(free_ports(1)[0])
            ports.append(servers.enter_context(redis_server(own, cluster_enabled="yes", cluster_port=bus, **settings)))
        command = ["redis-cli", "--cluster", "create", *(f"127.0.0.1:{port}" for port in ports), "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True)
        for port in ports:
            with redis.Redis(port=port, decode_responses=True) as client:
                while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                    time.sleep(0.05)
        yield ports
