"""Free TCP ports of this machine."""

import contextlib
import random
import socket

_KEPT = range(20_000, 30_000)  # below those that systems assign to connections


def free_ports(count: int) -> tuple[int, ...]:
    """Different ports of 127.0.0.1 that are free now; another process may take one, so be ready to try again."""
    with contextlib.ExitStack() as held:  # all are held at once, else the same one could be given twice
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)


def port_to_keep() -> int:
    """A free port outside the range that the system assigns, so that it is likely to be free again later."""
    return next(port for port in random.sample(_KEPT, len(_KEPT)) if is_free(port))


def is_free(port: int) -> bool:
    """Whether a port of 127.0.0.1 has no listener now."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was just given up is free
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
