"""Where the logs of a router lie that has several processes: its first worker's in the folder itself, others within it.

    spool/decision-00000001.jsonl               # worker 0, and so a router of one process
    spool/worker-1/decision-00000001.jsonl      # worker 1

Each folder is a spool of its own, with an identity and a lock. Whoever is given the folder of a router's log reads all
of them.
"""

from __future__ import annotations

from pathlib import Path

_OTHERS = "worker-"


def folder_of(spool: Path, worker: int) -> Path:
    """The folder of a worker's log.

    Args:
        spool: Folder of the router's log.
        worker: Its number, from 0.
    """
    return spool / f"{_OTHERS}{worker}" if worker else spool


def folders(spool: Path) -> list[Path]:
    """The folders of all workers that a router has or had, by number; the first one's, whether it is there or not."""
    return [spool, *left_by_others(spool, 1)]


def left_by_others(spool: Path, workers: int) -> list[Path]:
    """The folders of workers that a router had when it had more of them, by number.

    Args:
        spool: Folder of the router's log.
        workers: How many it has now.
    """
    found = {
        int(number): path
        for path in spool.glob(f"{_OTHERS}*")
        if (number := path.name.removeprefix(_OTHERS)).isdecimal() and path.is_dir()
    }
    return [path for number, path in sorted(found.items()) if number >= workers]
