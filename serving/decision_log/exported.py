"""Progress of the log's export: a small file that each export leaves, from which the router tells the export's age.

The file lies where both containers of a pod can reach it, and not on the volume that is exported to: the router is to
notice when that volume is slow or gone. An export that fails leaves the previous file.
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
    """Note that everything is exported that segments of these sizes held when the export began (Unix time)."""
    with replacing(mark) as unfinished:
        unfinished.write_text(json.dumps({"began": began, "sizes": dict(sizes)}))


def age(mark: Path, spool: Path, since: float) -> float:
    """Seconds since the last export began, if there are records that it did not see; else 0.

    Args:
        since: Unix time that counts until an export has left a file that can be read.
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
