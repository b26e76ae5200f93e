"""One thread for a small network.

The matrices here are too small to be divided: threads mostly wait for each other. On a busy machine they also wait for
its scheduler, which makes two threads several times slower than one. More cores are used by more processes instead:
workers of a server, pods, seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one CPU thread inside the block; an accelerator is not affected."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
