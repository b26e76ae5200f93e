import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from benchmarks._process import redis_server
from serving.local.ports import free_ports
from tests.waiting import eventually

__all__ = ["redis_cluster", "redis_server"]


@contextmanager
def redis_cluster(folder: Path, nodes: int = 3, **settings: str) -> Iterator[list[int]]:
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
                eventually(lambda client=client: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        yield ports
