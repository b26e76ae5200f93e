"""Measures how long training takes: preparing the data, one epoch, the default model, and fitting the future value.

Commands:

    python benchmarks/train.py                       # on a simulated log
    python benchmarks/train.py --data kuairand_sequence.csv.gz --dataset kuairand-sequence
    python benchmarks/train.py --quick
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _environment import environment, finish, parser

from benchmarks._markdown import Figures, Show, compared, measured_on, table

# Number of windows, steps per window, and batch size in the paper's training.
WINDOWS, STEPS, BATCH = 3200, 20, 512
# Number of simulated users.
USERS = 6_000


def cpu(work: Callable[[], Any]) -> float:
    """Return the CPU time of `work` in seconds, because wall time is unreliable on a shared computer."""
    started = time.process_time()
    work()
    return time.process_time() - started


def preparation(table: Any) -> float:
    from mtorl.window.encoder import Encoder

    def encode() -> None:
        tiles = table.tiles("train")
        Encoder.fit(tiles, table.spec).encode(tiles)

    return min(cpu(encode) for _ in range(3))


def epochs(table: Any, quick: bool) -> dict[str, float]:
    """Measure the CPU seconds of one epoch on one thread, for several widths and precisions.

    All epochs have the same number of windows.
    """
    import numpy as np
    import torch

    from mtorl.network.training import TrainConfig, train
    from mtorl.window.encoder import Encoder
    from mtorl.window.loader import EncodedWindows, TrainingWindows

    torch.set_num_threads(1)
    tiles = table.tiles("train")
    encoder = Encoder.fit(tiles, table.spec)
    count = 512 if quick else WINDOWS
    rows = np.resize(np.flatnonzero(tiles.length_B >= min(STEPS, tiles.length_B.max())), count)
    part = EncodedWindows(tiles.take(rows), encoder)
    data = TrainingWindows([part], [EncodedWindows(tiles.take(rows[:64]), encoder)], len(table.spec.channels))
    wide: dict[str, Any] = {"hidden": 512, "levels": 4}
    sizes = {"512, fp32": wide, "512, bf16": {**wide, "precision": "bf16"}, "64, default": {"hidden": 64, "levels": 2}}
    configs = {name: TrainConfig(epochs=1, batch_size=BATCH, device="cpu", **size) for name, size in sizes.items()}
    return {name: cpu(partial(train, data, config)) for name, config in configs.items()}


def to_best(table: Any) -> dict[str, float]:
    """Measure how long the default model trains until its best validation loss, and until the end."""
    import torch

    from mtorl.fitting.future import fit_future
    from mtorl.network.ensemble import train_ensemble
    from mtorl.network.training import TrainConfig
    from mtorl.window.encoder import Encoder
    from mtorl.window.loader import EncodedWindows, TrainingWindows

    torch.set_num_threads(1)
    tiles = table.tiles("train")
    encoder = Encoder.fit(tiles, table.spec)
    parts = [EncodedWindows(tiles, encoder)], [EncodedWindows(table.tiles("val"), encoder)]
    data = TrainingWindows(*parts, channels=len(table.spec.channels))
    started = time.process_time()
    trained = train_ensemble(data, TrainConfig(device="cpu"))
    windows = table.on_demand("train", targets=True)
    price = float(table.rows["click"].mean() / table.rows["cost"].mean())
    until_best = [row["seconds"] for member in trained.members for row in member.history[: member.best_epoch]]
    return {
        "seconds_to_best": sum(until_best),
        "seconds": trained.seconds,
        "cpu_seconds": time.process_time() - started,
        "future_cpu_seconds": cpu(lambda: fit_future(trained.ensemble, encoder, windows, price, seed=0)),
        "best_epochs": [member.best_epoch for member in trained.members],
        "parameters": trained.parameters,
    }


def main() -> None:
    options = parser(__doc__, "600 users, 512 windows")
    options.add_argument("--data", default="", help="raw exposure log; empty for the simulator")
    options.add_argument("--dataset", default="simulator", help="name of its data set description")
    arguments = options.parse_args()

    from mtorl.window.table import WindowTable
    from pipelines.paper import PaperConfig, prepare

    with tempfile.TemporaryDirectory() as root:
        users = 0 if arguments.data else 600 if arguments.quick else USERS
        prepare(arguments.dataset, arguments.data, PaperConfig({}, Path(root), users=users))
        table = WindowTable.load(Path(root) / "data" / arguments.dataset / "windows")
        figures = {
            "dataset": arguments.dataset,
            "rows": len(table.rows),
            "preparation_cpu_seconds": preparation(table),
            "epoch_cpu_seconds": epochs(table, arguments.quick),
            "default": to_best(table),
            "environment": environment("torch"),
        }
    print(train_table([figures]))
    finish(figures, arguments.json)


def train_table(results: Sequence[Figures]) -> str:
    epoch = "epoch_cpu_seconds"
    rows: dict[str, Show] = {
        "touchpoints": lambda result: f"{result['rows']:,}",
        "preparing the windows": lambda result: f"{result['preparation_cpu_seconds']:.2f} s",
        "epoch, 512 wide, float32": lambda result: f"{result[epoch]['512, fp32']:.1f} s",
        "epoch, 512 wide, bfloat16": lambda result: f"{result[epoch]['512, bf16']:.1f} s",
        "epoch, default (64 wide)": lambda result: f"{result[epoch]['64, default']:.2f} s",
        "default model to its best validation (aim: 60 s)": lambda result: (
            f"{result['default']['seconds_to_best']:.0f} s"
        ),
        "value of the future (where it is on)": lambda result: f"{result['default']['future_cpu_seconds']:.0f} s",
        "its parameters (aim: 300,000)": lambda result: f"{result['default']['parameters']:,}",
    }
    heads = ["", *(result["dataset"] for result in results)]
    return table(heads, compared(rows, results)) + measured_on(results[0], "train.py")


if __name__ == "__main__":
    main()
