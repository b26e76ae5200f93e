"""How far the log has been exported: a small file that each export leaves, so that the router can tell how old it is.

    exported.note(mark, began, sizes)                      # by the export, at its end
    exported.age(mark, spool.folder, since=started)        # by the router: seconds, 0 while everything is exported

An export that fails leaves the file of the one before. The file lies where both containers of a pod can reach it, and
not on the volume that is exported to: that may be slow, or gone, which is what the router is to notice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from mtorl.log.records import Kind
from mtorl.runtime.files import replacing
from serving.decision_log.segments import segments


def note(mark: Path, began: float, sizes: Mapping[str, int]) -> None:
    """Say that everything is exported that was in the log when an export began.

    Args:
        mark: The file.
        began: Unix time.
        sizes: Bytes of each segment then, by its name without suffix.
    """
    with replacing(mark) as unfinished:
        unfinished.write_text(json.dumps({"began": began, "sizes": dict(sizes)}))


def age(mark: Path, spool: Path, since: float) -> float:
    """Seconds since the last export began, if there are records that it did not see; else 0.

    Without traffic there is nothing to export, and an old export is as good as a new one.

    Args:
        mark: The file.
        spool: Folder of the log.
        since: Unix time that counts while no export has left a file that can be read.
    """
    began, sizes = since, {}
    try:
        found = json.loads(mark.read_text())
        began, sizes = float(found["began"]), dict(found["sizes"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    there = {path.stem: path.stat().st_size for kind in get_args(Kind) for path in segments(spool, kind)}
    behind = any(size and sizes.get(segment) != size for segment, size in there.items())
    return max(0.0, time.time() - began) if behind else 0.0
