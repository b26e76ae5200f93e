"""The folder of a data set: made by `mtorl data build`, found again by whoever is given its path.

    FOLDER/dataset.yaml          the data set description
    FOLDER/touchpoints.parquet   the canonical log, and
    FOLDER/ingest.json           what the door found (neither, if the log was trusted and stays where it is)
    FOLDER/sources/              Parquet sources of the feature views (features/feature_repo/sources.py)
    FOLDER/windows/              the window store that training reads (features/sequences/builder.py)

A run of `mtorl run` keeps its log in `data/`; `locate` knows both.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from features.engine import Engine
from features.feature_repo.sources import build_sources
from features.ingest.ingest import IngestReport, LogError
from features.ingest.log_folder import ingest
from features.parquet_rows import parquet_files
from features.sequences.builder import build as build_windows
from features.sequences.manifest import FILE as MANIFEST
from features.sequences.manifest import Manifest
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import DATASET_FILE, INGEST_FILE, LOG_FILE
from mtorl.runtime.files import replacing

SOURCES, WINDOWS = "sources", "windows"
_OURS = {LOG_FILE, DATASET_FILE, INGEST_FILE, SOURCES, WINDOWS}
SIMULATED = "simulator"
Step = Callable[[str], AbstractContextManager[None]]  # by name: validate-log, feature-sources, window-store


@dataclass(frozen=True)
class Admitted:
    """A log that features can be computed from."""

    path: Path
    spec: DatasetSpec
    report: IngestReport | None  # of the door; None: it has been through one before, or is trusted


def locate(log: str, dataset: str, trusted: bool = False) -> tuple[Path, str, bool]:
    """Find out what someone calls a log.

    Args:
        log: A file, a folder of Parquet parts, or the folder of `mtorl data build` or `mtorl run`.
        dataset: Name or path of its description; may be empty where one lies beside the log.
        trusted: Whether to take it for canonical in any case.

    Returns:
        Its path, name or path of its description, and whether it is canonical (has been through the door).

    Raises:
        LogError: there is no such thing, or its description is not known.
    """
    path, ours = Path(log), False
    if not path.exists():
        raise LogError(f"{log}: no such file or folder")
    places = (path / LOG_FILE, path / "data" / LOG_FILE, path / WINDOWS / "steps", path / "steps")
    if found := next((place for place in places if place.exists()), None):
        path = found
    elif path.is_dir() and not _has_parts(path):
        raise LogError(
            f"{log}: no log in this folder; expected {LOG_FILE}, or a folder of `mtorl data build` or `mtorl run`"
        )
    if path.name in (LOG_FILE, "steps"):
        # The name alone proves nothing: anyone's raw export may be called so.
        ours = (path.parent / (INGEST_FILE if path.name == LOG_FILE else MANIFEST)).exists()
        if (beside := path.parent / DATASET_FILE).exists():
            dataset = dataset or str(beside)
    if not dataset:
        raise LogError(f"{log}: which data set is this? Give --dataset: a built-in name, or the path of a YAML")
    return path, dataset, ours or trusted


def admit(log: str, dataset: str, folder: Path, quarantine: Path, bad_rows: str, trusted: bool) -> Admitted:
    """Lead a log through the door, unless it has been through it.

    Args:
        log: See `locate`; empty runs the simulator.
        dataset: See `locate`.
        folder: For the canonical log and its description.
        quarantine: Side file for faulty rows.
        bad_rows: "fail" stops at a faulty log, "quarantine" goes on without the faulty rows.
        trusted: See `locate`.

    Raises:
        LogError: the log can't be used.
        SpecError: the description can't be used.
    """
    if log:
        path, dataset, canonical = locate(log, dataset, trusted)
        if canonical:
            spec = DatasetSpec.load(dataset)
            _check(path, spec)
            return Admitted(path, spec, None)
    elif dataset and DatasetSpec.load(dataset).adapter != SIMULATED:
        raise LogError(f"dataset {dataset!r} needs a log: give its path too; only the simulator makes its own")
    report = ingest(log, dataset or SIMULATED, str(folder), str(quarantine), bad_rows, users=0, seed=7)
    return Admitted(folder / LOG_FILE, DatasetSpec.load(folder / DATASET_FILE), report)


def build(
    engine: Engine,
    log: str,
    dataset: str,
    out: Path,
    *,
    bad_rows: str = "fail",
    trusted: bool = False,
    step: Step = lambda _: nullcontext(),
) -> Manifest:
    """Make a folder out of a log; it replaces an earlier one once it is complete, and not before.

    Args:
        engine: Computes features and windows. The door is DuckDB's in any case.
        log: See `admit`.
        dataset: See `admit`.
        out: The folder. Faulty rows go beside it, to `OUT.quarantine.csv`.
        bad_rows: See `admit`.
        trusted: See `admit`.
        step: Called with the name of each step; what it gives is entered while the step runs.

    Returns:
        The manifest of the window store.

    Raises:
        LogError: the log can't be used, or the folder exists and is not one of ours.
        SpecError: the description can't be used.
    """
    out = out.absolute()
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= _OURS):
        raise LogError(f"{out}: holds more than `mtorl data build` makes, and would be replaced; name another folder")
    if trusted and out in Path(log).absolute().parents:
        raise LogError(f"{log}: lies in the folder that --out replaces; name another folder")
    with replacing(out) as folder:
        folder.mkdir()
        with step("validate-log"):
            quarantine = out.with_name(f"{out.name}.quarantine.csv")
            admitted = admit(log, dataset, folder, quarantine, bad_rows, trusted)
            if admitted.report is None:
                admitted.spec.save(folder / DATASET_FILE)
                if not trusted and admitted.path.name == LOG_FILE:
                    (shutil.copytree if admitted.path.is_dir() else shutil.copyfile)(admitted.path, folder / LOG_FILE)
                    if (found := admitted.path.with_name(INGEST_FILE)).exists():
                        shutil.copyfile(found, folder / INGEST_FILE)
        with step("feature-sources"):
            build_sources(engine, admitted.path, admitted.spec, folder / SOURCES)
        with step("window-store"):
            known_by = ""
            if admitted.report:
                known_by = admitted.report.fingerprint
            elif not trusted and admitted.path.name == LOG_FILE:
                known_by = _fingerprint(admitted.path)
            return build_windows(engine, admitted.path, admitted.spec, folder / WINDOWS, log_fingerprint=known_by)


def _has_parts(folder: Path) -> bool:
    try:
        return bool(parquet_files(folder))
    except FileNotFoundError:
        return False


def _fingerprint(log: Path) -> str:
    """What the door said of a log, if it still has as many rows; else nothing."""
    import pyarrow.dataset as ds

    try:
        said = json.loads(log.with_name(INGEST_FILE).read_text())
        rows = ds.dataset([str(file) for file in parquet_files(log)], format="parquet").count_rows()
        return str(said["fingerprint"]) if said["rows"] == rows else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _check(path: Path, spec: DatasetSpec) -> None:
    """See that a log which does not go through the door is one."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    try:
        found = ds.dataset([str(file) for file in parquet_files(path)], format="parquet")
        names, rows = found.schema.names, found.count_rows()
    except (OSError, pa.ArrowException) as error:
        raise LogError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error
    if missing := [name for name in spec.columns if name not in names]:
        raise LogError(f"{path}: not a canonical {spec.name!r} log; it lacks {', '.join(missing)}")
    if not rows:
        raise LogError(f"{path}: the log has no rows")
