"""One thread for a small network.

The matrices here are too small to share out: threads mostly wait for each other, and on a machine with anything else to
do they wait for its scheduler too, which makes two threads several times slower than one. More cores are used by more
processes: workers of a server, pods, seeds.
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
