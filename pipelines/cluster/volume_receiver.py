"""Receives a file on standard input and puts it in place whole. It runs in a pod, by Python alone.

    python -c "$(cat pipelines/cluster/volume_receiver.py)" /mnt/mtorl/dataset.yaml SHA256 keep <dataset.yaml

`keep` refuses to replace another content, `replace` does not. Exit code 0: the file has this content now.
"""

import hashlib
import os
import sys
from pathlib import Path

KEPT = 3
"""Exit code: another content is there."""


def receive(target: Path, digest: str, mode: str) -> int:
    """Write standard input to a file; returns the exit code, and prints what happened."""
    if target.exists():
        with target.open("rb") as there:
            found = hashlib.file_digest(there, "sha256").hexdigest()
        if found == digest:
            print("was there")
            return 0
        if mode != "replace":
            return KEPT
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{digest[:8]}")
    received = hashlib.sha256()
    try:
        with unfinished.open("wb") as file:
            while block := sys.stdin.buffer.read(1 << 20):
                file.write(block)
                received.update(block)
            file.flush()
            os.fsync(file.fileno())
        if received.hexdigest() != digest:
            print("the connection broke: not all of the file came", file=sys.stderr)
            return 1
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    print("written")
    return 0


if __name__ == "__main__":
    os.umask(0o027)  # only the volume's group may read logs
    try:
        sys.exit(receive(Path(sys.argv[1]), *sys.argv[2:4]))
    except OSError as error:
        sys.exit(str(error))
