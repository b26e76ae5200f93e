"""The decision log of a folder that a router keeps its state in, also while it runs.

with readable_log(Path("first-day")) as log:
    DecisionLog.in_folder(log)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.collect.log_files import files_of, is_hidden
from monitoring.verdict.period import PeriodError
from mtorl.log.touchpoints import LogError
from serving.decision_log.export import export_parquet


@contextmanager
def readable_log(folder: Path) -> Iterator[Path]:
    """A decision log that can be read. What a router has written but not shipped yet is there, too.

    Args:
        folder: State of `mtorl serve`, or a decision log that was exported or shipped.

    Raises:
        LogError: It is neither.
    """
    served = [folder / name for name in ("spool", "log") if (folder / name).is_dir()]
    if not served and any(not is_hidden(file, folder) for file in folder.rglob("decisions.parquet")):
        yield folder
        return
    if not served and not files_of(folder, "decision"):
        raise LogError(
            f"{folder}: neither the state of mtorl serve nor a decision log; that of a run is in decision_log"
        )
    # Inside the folder: an export leaves out who was forgotten there.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        for place in served or [folder]:
            export_parquet(place, Path(scratch, place.name))
        try:
            yield Path(scratch)
        except (LogError, PeriodError) as error:
            raise type(error)(str(error).replace(scratch, str(folder))) from None
