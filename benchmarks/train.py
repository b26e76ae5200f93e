"""Measures training: preparing the data, an epoch by width and precision, the default model to its best validation.

Commands:

    python benchmarks/train.py                       # on a simulated log
    python benchmarks/train.py --data kuairand_sequence.csv.gz --dataset kuairand-sequence
    python benchmarks/train.py --quick
    python benchmarks/train.py --device cuda         # only on a GPU: windows per second, compile time
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _environment import environment, finish, parser

from benchmarks._markdown import Figures, Show, compared, measured_on
from benchmarks._markdown import table as markdown

WINDOWS, STEPS, BATCH = 3200, 20, 512  # the size of the authors' training set
USERS, USERS_GPU = 6_000, 20_000  # simulated users


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of `work`; wall time is unreliable on a shared computer."""
    started = time.process_time()
    work()
    return time.process_time() - started


def preparation(table: Any) -> float:
    """CPU seconds of encoding all training windows of a log."""
    from mtorl.window.encoder import Encoder

    def encode() -> None:
        tiles = table.tiles("train")
        Encoder.fit(tiles, table.spec).encode(tiles)

    return min(cpu(encode) for _ in range(3))


def epochs(table: Any, quick: bool) -> dict[str, float]:
    """CPU seconds of one epoch by width and precision, with the same number of windows, on one thread."""
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
    """Time of training the default model to its best validation loss and to its end, on one thread."""
    import torch

    from mtorl.network.ensemble import train_ensemble
    from mtorl.network.training import TrainConfig

    torch.set_num_threads(1)
    data, _ = data_of(table)
    started = time.process_time()
    trained = train_ensemble(data, TrainConfig(device="cpu"))
    until_best = [row["seconds"] for member in trained.members for row in member.history[: member.best_epoch]]
    return {
        "seconds_to_best": sum(until_best),
        "seconds": trained.seconds,
        "cpu_seconds": time.process_time() - started,
        "best_epochs": [member.best_epoch for member in trained.members],
        "parameters": trained.parameters,
    }


def data_of(table: Any) -> tuple[Any, int]:
    """Encoded training and validation windows, and the number of training windows."""
    from mtorl.window.encoder import Encoder
    from mtorl.window.loader import EncodedWindows, TrainingWindows

    tiles = table.tiles("train")
    encoder = Encoder.fit(tiles, table.spec)
    train_windows, val = EncodedWindows(tiles, encoder), EncodedWindows(table.tiles("val"), encoder)
    return TrainingWindows([train_windows], [val], channels=len(table.spec.channels)), len(tiles)


def on_device(table: Any, device: str, quick: bool) -> str:
    """A table of trainings on a GPU. The compile time is the additional time of the first epoch."""
    import torch

    from mtorl.network.parallel import device_of
    from mtorl.network.training import TrainConfig, train

    widths, size, epochs = ((32,), 64, 3) if quick else ((64, 512), 1024, 6)
    data, windows = data_of(table)
    rows = []
    for hidden in widths:
        for precision in ("fp32", "bf16"):
            of_size: dict[str, Any] = {"hidden": hidden, "precision": precision, "batch_size": size}
            result = train(data, TrainConfig(epochs=epochs, patience=epochs, device=device, **of_size))
            first, *others = (row["seconds"] for row in result.history)
            usual = sum(others) / len(others)
            cells = [f"{hidden}, {precision}", f"{windows / usual:,.0f}", f"{max(0.0, first - usual):.1f} s"]
            rows.append([*cells, f"{min(row['val_loss'] for row in result.history):.4f}"])
    name = torch.cuda.get_device_name() if device_of(device).type == "cuda" else "no GPU"
    return f"{name}\n\n" + markdown(["width", "windows/s", "compiling", "validation loss"], rows)


def main() -> None:
    options = parser(__doc__, "600 users, 512 windows")
    options.add_argument("--data", default="", help="raw exposure log; empty for the simulator")
    options.add_argument("--dataset", default="simulator", help="name of its data set description")
    options.add_argument("--device", default="", help="cuda or auto: only measure this device and print the table")
    arguments = options.parse_args()

    from mtorl.window.table import WindowTable
    from pipelines.paper import PaperConfig, prepare

    with tempfile.TemporaryDirectory() as root:
        users = (600 if arguments.quick else USERS_GPU if arguments.device else USERS) if not arguments.data else 0
        prepare(arguments.dataset, arguments.data, PaperConfig({}, Path(root), users=users))
        table = WindowTable.load(Path(root) / "data" / arguments.dataset / "windows")
        if arguments.device:
            print(on_device(table, arguments.device, arguments.quick))
            return
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
    """A table of the costs of training, with a column for each data set."""
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
        "its parameters (aim: 300,000)": lambda result: f"{result['default']['parameters']:,}",
    }
    heads = ["", *(result["dataset"] for result in results)]
    return markdown(heads, compared(rows, results)) + measured_on(results[0], "train.py")


if __name__ == "__main__":
    main()
