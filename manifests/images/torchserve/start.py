"""Entry point of the TorchServe image: serves version $MODEL_VERSION of the mounted registry as model $MODEL_NAME.

Java replaces this process, so that Java is PID 1 and receives the pod's SIGTERM. The `torchserve` command would not
forward this signal. All files are written below $TMPDIR, because the root file system is read-only.
"""

import os
import shutil
import sys
from pathlib import Path

from serving.local.torchserve import java_command, java_environment, java_home

REGISTRY = Path("/mnt/models")
CONFIG = Path(__file__).with_name("config.properties")


def main() -> None:
    """Check the mounted files, then replace this process by Java."""
    name = os.environ["MODEL_NAME"]
    store = REGISTRY / os.environ["MODEL_VERSION"] / "model-store"
    archives = sorted(store.glob("*.mar"))
    if len(archives) != 1:
        sys.exit(f"{store}: there must be exactly one .mar, found {[mar.name for mar in archives]}")
    workdir = Path(os.environ.get("TMPDIR", "/tmp"), "torchserve")
    tmp = workdir / "tmp"
    # A previous container of this pod may have left an unpacked model here, and a PID file that prevents the start.
    shutil.rmtree(workdir, ignore_errors=True)
    tmp.mkdir(parents=True)
    os.chdir(workdir)
    java = java_home()
    command = [*java_command(java, store, CONFIG, tmp), "--models", f"{name}={archives[0].name}"]
    os.execve(command[0], command, java_environment(java, workdir, tmp))


if __name__ == "__main__":
    main()
