"""Finds free TCP ports on 127.0.0.1."""

import contextlib
import random
import socket

_KEPT = range(20_000, 30_000)  # below the ports that systems assign to connections


def free_ports(count: int) -> tuple[int, ...]:
    """Distinct ports that are free now. Another process may take one before it is used, so be prepared to retry."""
    with contextlib.ExitStack() as held:  # all are open at once, so that none is returned twice
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)


def port_to_keep() -> int:
    """A free port outside the range that the system assigns, so it is likely to be free later as well."""
    return next(port for port in random.sample(_KEPT, len(_KEPT)) if is_free(port))


def is_free(port: int) -> bool:
    """Whether a port has no listener now."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed counts as free
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
