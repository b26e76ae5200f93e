"""The metrics of each epoch, where TensorBoard reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def epoch_log(folder: str) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A function that writes the epoch's history row of a member of the ensemble; each member is a TensorBoard run.

    Args:
        folder: Where to write; "" writes nothing.
    """
    if not folder:
        yield lambda member, row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    writers: dict[int, SummaryWriter] = {}

    def write(member: int, row: dict[str, float]) -> None:
        if member not in writers:
            writers[member] = SummaryWriter(f"{folder}/member-{member}")
        for name, value in row.items():
            if name != "epoch":
                writers[member].add_scalar(name.replace("_", "/", 1), value, int(row["epoch"]))
        writers[member].flush()

    try:
        yield write
    finally:
        for writer in writers.values():
            writer.close()
