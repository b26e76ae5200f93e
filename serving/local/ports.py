"""Finds free TCP ports on 127.0.0.1."""

import contextlib
import random
import socket

_KEPT = range(20_000, 30_000)  # lower than the ports that operating systems assign to connections


def free_ports(count: int) -> tuple[int, ...]:
    """Return different ports that are free now. The caller must retry if another process binds one of them first."""
    with contextlib.ExitStack() as held:  # keep all sockets open at once, so that no port is returned twice
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)


def port_to_keep() -> int:
    """Return a free port that will probably stay free, because the system does not assign it to connections."""
    return next(port for port in random.sample(_KEPT, len(_KEPT)) if is_free(port))


def is_free(port: int) -> bool:
    """Whether a port has no listener now."""
    with socket.socket() as tried:
        # with this option, a port that was closed a moment ago counts as free
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
