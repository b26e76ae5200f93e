"""Training on an accelerator: windows a second, how busy it is, bfloat16 against float32, and what compiling takes.

Commands:

    python benchmarks/train_gpu.py                  # takes a GPU if there is one
    python benchmarks/train_gpu.py --quick          # small, also for a CPU
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from _environment import environment, finish


class Utilisation:
    """Mean utilisation of the first GPU while a block runs, as nvidia-smi reports it; None without one."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Utilisation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def mean(self) -> float | None:
        """Share of the time in which a kernel ran."""
        return sum(self.samples) / len(self.samples) if self.samples else None

    def _watch(self) -> None:
        if not (tool := shutil.which("nvidia-smi")):
            return
        command = [tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while not self._stop.wait(0.2):
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            if answer.returncode == 0:
                self.samples.append(float(answer.stdout.split()[0]) / 100)


def measure(table: Any, hidden: int, precision: str, size: int, epochs: int, device: str) -> dict[str, Any]:
    """One training; the first epoch, in which kernels are compiled, stands apart."""
    from mtorl.network.training import TrainConfig, train
    from mtorl.window.encoder import Encoder
    from mtorl.window.loader import EncodedWindows, TrainingWindows

    tiles = table.tiles("train")
    encoder = Encoder.fit(tiles, table.spec)
    train_windows, val = EncodedWindows(tiles, encoder), EncodedWindows(table.tiles("val"), encoder)
    data = TrainingWindows([train_windows], [val], channels=len(table.spec.channels))
    config = TrainConfig(
        epochs=epochs, patience=epochs, batch_size=size, hidden=hidden, precision=precision, device=device
    )
    with Utilisation() as busy:
        result = train(data, config)
    first, *others = (row["seconds"] for row in result.history)
    usual = sum(others) / len(others)
    return {
        "hidden": hidden,
        "precision": precision,
        "batch_size": size,
        "windows_per_second": len(tiles) / usual,
        "first_epoch_seconds": first,
        "epoch_seconds": usual,
        "compile_seconds": max(0.0, first - usual),
        "best_val_loss": min(row["val_loss"] for row in result.history),
        "utilisation": busy.mean,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000, help="to simulate")
    parser.add_argument("--quick", action="store_true", help="300 users, 3 epochs, 32 wide")
    parser.add_argument("--device", default="auto", help="cuda, cpu; auto takes a GPU if there is one")
    parser.add_argument("--json", default="", help="also write the figures to this file")
    arguments = parser.parse_args()

    import torch

    from mtorl.network.parallel import device_of
    from mtorl.window.table import WindowTable
    from pipelines.paper import PaperConfig, prepare

    device = device_of(arguments.device)
    widths, size, epochs = ((32,), 64, 3) if arguments.quick else ((64, 512), 1024, 6)
    with tempfile.TemporaryDirectory() as root:
        users = 300 if arguments.quick else arguments.users
        prepare("simulator", "", PaperConfig({}, Path(root), users=users))
        table = WindowTable.load(Path(root) / "data" / "simulator" / "windows")
        runs = [
            measure(table, hidden, precision, size, epochs, arguments.device)
            for hidden in widths
            for precision in ("fp32", "bf16")
        ]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    figures = {"device": name, "rows": len(table.rows), "runs": runs, "environment": environment("torch")}
    print(f"{name}, {len(table.rows):,} touchpoints")
    print(f"{'hidden':>6} {'precision':>9} {'windows/s':>10} {'busy':>5} {'compiling':>9} {'validation loss':>15}")
    for run in runs:
        busy = "-" if run["utilisation"] is None else f"{run['utilisation']:.0%}"
        print(
            f"{run['hidden']:>6} {run['precision']:>9} {run['windows_per_second']:>10,.0f} {busy:>5} "
            f"{run['compile_seconds']:>7.1f} s {run['best_val_loss']:>15.4f}"
        )
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
