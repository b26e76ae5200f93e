"""A port to listen on; or for several processes of one user, among which the system divides connections.

The latter is SO_REUSEPORT.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


class CannotListen(OSError):
    """Somebody else has the port, or the address is none of this machine's."""


def socket_on(host: str, port: int, shared: bool) -> socket.socket:
    """A socket on a port.

    Args:
        host: Address of the port.
        port: The port; 0 takes a free one.
        shared: Whether others may have it, too.

    Raises:
        CannotListen: Somebody has it, and does not share it.
    """
    try:
        return _bound(host, port, shared)
    except OSError as error:
        raise CannotListen(f"can't listen on {host}:{port}: {error.strerror or error}") from None


@contextmanager
def held_port(host: str, port: int) -> Iterator[int]:
    """Keep a port, for processes that share it, from all others; nobody is connected to whoever holds it.

    Args:
        host: Address of the port.
        port: The port; 0 takes a free one.

    Raises:
        OSError: Somebody has it, whether he shares it or not.
    """
    with _bound(host, port, shared=False) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # from now on
        yield held.getsockname()[1]


def _bound(host: str, port: int, shared: bool) -> socket.socket:
    """A socket on an address of the host, on an IPv4 one if there is."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = min(addresses, key=lambda one: one[0] != socket.AF_INET)
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        found.bind(address)
    except OSError:
        found.close()
        raise
    return found
