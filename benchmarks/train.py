"""What training costs: preparing the data, an epoch at the authors' size, and the default model to its best validation.

Commands:

    python benchmarks/train.py                       # on a simulated log
    python benchmarks/train.py --data kuairand_sequence.csv.gz --dataset kuairand-sequence
    python benchmarks/train.py --quick
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _environment import environment, finish

WINDOWS, STEPS, BATCH = 3200, 20, 512  # of the authors' training set
USERS = 6000  # simulated


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of some work: wall time on a shared machine says little."""
    started = time.process_time()
    work()
    return time.process_time() - started


def one_by_one(log: Any, users: int) -> None:
    """Windows as the notebook makes them: for each user, the whole table is searched for its rows, four times."""
    import numpy as np

    columns = [name for name in log.columns if name != "user"]
    for user in range(users):
        for _ in range(4):
            rows = log[log["user"] == user]
        values = rows[columns].to_numpy(float)
        for start in range(max(0, len(values) - STEPS)):
            np.array(values[start : start + STEPS])


def preparation(raw: Any, table: Any) -> dict[str, float]:
    """Encoded training windows of a whole log; against the notebook's way from the raw file, users numbered for it."""
    import pandas as pd

    from mtorl.window.encoder import Encoder

    def ours() -> None:
        tiles = table.tiles("train")
        Encoder.fit(tiles, table.spec).encode(tiles)

    user = next(name for name in ("user_id", "uid") if name in raw)
    codes, names = pd.factorize(raw[user])
    numbers = raw.select_dtypes(["number", "bool"]).assign(user=codes)
    # A share of the users: each costs the same search of the whole table.
    some = min(500, len(names))
    theirs = cpu(lambda: one_by_one(numbers, some)) * len(names) / some
    mine = min(cpu(ours) for _ in range(3))
    return {"notebook_cpu_seconds": theirs, "ours_cpu_seconds": mine, "ratio": theirs / mine}


def epochs(table: Any, quick: bool) -> dict[str, float]:
    """CPU seconds of one epoch of equally many windows, one thread."""
    import numpy as np
    import torch

    from benchmarks.training.published import PublishedNetwork, epoch
    from mtorl.network.training import TrainConfig, train
    from mtorl.window.encoder import Encoder
    from mtorl.window.loader import EncodedWindows, TrainingWindows

    torch.set_num_threads(1)
    tiles = table.tiles("train")
    encoder = Encoder.fit(tiles, table.spec)
    count = 512 if quick else WINDOWS
    rows = np.resize(np.flatnonzero(tiles.length_B >= min(STEPS, tiles.length_B.max())), count)
    part = EncodedWindows(tiles.take(rows), encoder)
    batch = part.__getitems__(range(count))
    channels, inputs = len(table.spec.channels), batch.x_BTD.shape[2]
    click_BT = (batch.reward_BT > 0.5).float()
    published = batch.x_BTD, batch.channel_BT, click_BT, BATCH
    measured = {
        "published network": cpu(lambda: epoch(PublishedNetwork(inputs, channels), *published)),
        "published network, bf16": cpu(lambda: epoch(PublishedNetwork(inputs, channels), *published, bf16=True)),
    }
    few = EncodedWindows(tiles.take(rows[:64]), encoder)
    for name, hidden, levels, precision in (
        ("512, fp32", 512, 4, "fp32"),
        ("512, bf16", 512, 4, "bf16"),
        ("64, default", 64, 2, "fp32"),
    ):
        size: dict[str, Any] = {"hidden": hidden, "levels": levels, "precision": precision}
        config = TrainConfig(epochs=1, batch_size=BATCH, device="cpu", **size)
        measured[name] = cpu(lambda config=config: train(TrainingWindows([part], [few], channels), config))  # type: ignore[misc]
    return measured


def to_best(table: Any) -> dict[str, float]:
    """The default model, to its best validation loss and to its end, on one thread."""
    import torch

    from mtorl.network.ensemble import train_ensemble
    from mtorl.network.training import TrainConfig
    from mtorl.window.encoder import Encoder
    from mtorl.window.loader import EncodedWindows, TrainingWindows

    torch.set_num_threads(1)
    tiles = table.tiles("train")
    encoder = Encoder.fit(tiles, table.spec)
    train_windows, val = EncodedWindows(tiles, encoder), EncodedWindows(table.tiles("val"), encoder)
    data = TrainingWindows([train_windows], [val], channels=len(table.spec.channels))
    started = time.process_time()
    trained = train_ensemble(data, TrainConfig(device="cpu"))
    return {
        "seconds_to_best": sum(
            row["seconds"] for member in trained.members for row in member.history[: member.best_epoch]
        ),
        "seconds": trained.seconds,
        "cpu_seconds": time.process_time() - started,
        "best_epochs": [member.best_epoch for member in trained.members],
        "parameters": trained.parameters,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="raw exposure log; empty for the simulator")
    parser.add_argument("--dataset", default="simulator", help="name of its description")
    parser.add_argument("--quick", action="store_true", help="600 users, 512 windows")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    arguments = parser.parse_args()

    import pandas as pd

    from mtorl.window.table import WindowTable
    from pipelines.paper import PaperConfig, prepare

    with tempfile.TemporaryDirectory() as root:
        users = (600 if arguments.quick else USERS) if not arguments.data else 0
        prepare(arguments.dataset, arguments.data, PaperConfig({}, Path(root), users=users))
        folder = Path(root) / "data" / arguments.dataset
        log = pd.read_parquet(folder / "log" / "touchpoints.parquet")
        table = WindowTable.load(folder / "windows")
        figures = {
            "dataset": arguments.dataset,
            "rows": len(log),
            "preparation": preparation(pd.read_csv(arguments.data) if arguments.data else log, table),
            "epoch_cpu_seconds": epochs(table, arguments.quick),
            "default": to_best(table),
            "environment": environment("torch"),
        }
    print(f"{arguments.dataset}, {len(log):,} touchpoints; CPU seconds, one thread")
    ratio = figures["preparation"]
    print(f"preparation: notebook {ratio['notebook_cpu_seconds']:.2f}, ours {ratio['ours_cpu_seconds']:.3f}")
    for name, seconds in figures["epoch_cpu_seconds"].items():
        print(f"epoch, {name:<22} {seconds:,.2f}")
    best = figures["default"]
    print(f"default model: {best['seconds_to_best']:.0f} s to its best of {best['seconds']:.0f} s")
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
