"""Serve version $MODEL_VERSION of the mounted registry under the name $MODEL_NAME: entry point of the TorchServe image.

Java takes the place of this process, so that it is PID 1 and gets the pod's SIGTERM itself (the `torchserve` command is
a wrapper that passes no signal on). Everything is written below $TMPDIR, since the root file system is read-only.
"""

import os
import shutil
import sys
from pathlib import Path

from serving.local.torchserve import java_command, java_environment, java_home

REGISTRY = Path("/mnt/models")
CONFIG = Path(__file__).with_name("config.properties")


def main() -> None:
    """Check the mounted files, then become Java."""
    name = os.environ["MODEL_NAME"]
    store = REGISTRY / os.environ["MODEL_VERSION"] / "model-store"
    archives = sorted(store.glob("*.mar"))
    if len(archives) != 1:
        sys.exit(f"{store}: there must be exactly one .mar, found {[mar.name for mar in archives]}")
    workdir = Path(os.environ.get("TMPDIR", "/tmp"), "torchserve")
    tmp = workdir / "tmp"
    # An earlier container of this pod leaves its unpacked model and, if killed, a PID file that forbids a start.
    shutil.rmtree(workdir, ignore_errors=True)
    tmp.mkdir(parents=True)
    os.chdir(workdir)
    java = java_home()
    command = [*java_command(java, store, CONFIG, tmp), "--models", f"{name}={archives[0].name}"]
    os.execve(command[0], command, java_environment(java, workdir, tmp))


if __name__ == "__main__":
    main()
