"""Finds free TCP ports on 127.0.0.1."""

import contextlib
import random
import socket

_KEPT = range(20_000, 30_000)  # lower than the ports that operating systems assign to connections


def free_ports(count: int) -> tuple[int, ...]:
    """Return different free ports, which other processes may still bind."""
    with contextlib.ExitStack() as held:  # open together, so that no port is returned twice
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)


def port_to_keep() -> int:
    """Return a free port that the system does not assign to connections."""
    return next(port for port in random.sample(_KEPT, len(_KEPT)) if is_free(port))


def is_free(port: int) -> bool:
    """Whether a port has no listener now."""
    with socket.socket() as tried:
        # A port that was just closed counts as free.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
