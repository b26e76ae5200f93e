"""Builds a data set folder from a log, for the command `mtorl data build`.

    dataset.yaml              the data set description
    touchpoints.parquet       the canonical log; absent if the log was trusted and no decisions were added
    ingest.json               report on the raw log; absent without touchpoints.parquet
    opportunities.parquet     decisions that a policy's value is estimated from, if decisions were added
    conversions-left-out.csv  rows of a conversions file that match no touchpoint, if any
    sources/                  Parquet sources of the feature views
    windows/                  the windows that training reads

The folder replaces an earlier one only once it is complete.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features import messages
from features.collect.compact import compact
from features.collect.training_log import add_decisions
from features.engine import Engine, facts_of, parquet_files, rows_of
from features.feature_repo.sources import build_sources
from features.ingest.conversions import FILE as LEFT_OUT
from features.ingest.ingest import IngestReport, LogError, with_remedy
from features.ingest.log_folder import DECISIONS, RAW, WINDOWS, Origin, RawLog, ingest
from features.sequences import builder
from features.sequences.manifest import FILE as MANIFEST
from features.sequences.manifest import STEPS, Manifest
from mtorl.log.dataset import SIMULATOR, DatasetSpec
from mtorl.log.lake import Lake
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.sources import is_remote
from mtorl.log.touchpoints import COLLECTED, DATASET_FILE, INGEST_FILE, LOG_FILE
from mtorl.runtime.files import link, replacing

SOURCES = "sources"
_OURS = {LOG_FILE, DATASET_FILE, INGEST_FILE, OPPORTUNITIES_FILE, LEFT_OUT, SOURCES, WINDOWS}
# Called with the title of a build step. Returns a context manager in which the step runs.
Step = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class CanonicalLog:
    """A log in the canonical layout, from which features can be computed.

    Attributes:
        report: Result of the ingestion. None if the log was already canonical, so that it was not ingested.
    """

    path: Path
    spec: DatasetSpec
    report: IngestReport | None


def _locate(log: str, dataset: str) -> tuple[Path, str, bool]:
    """Return the path of a log, the path or name of its description, and True if the log is canonical."""
    path, canonical = Path(log), False
    if not path.exists():
        raise LogError(messages.NO_FILE(file=log))
    places = (path / LOG_FILE, path / "data" / LOG_FILE, path / WINDOWS / STEPS, path / STEPS)
    inside = next((place for place in places if place.exists()), None)
    if inside is not None:
        path = inside
    if path.name in (LOG_FILE, STEPS):
        # A user's own file may have the same name, so check that a report or manifest lies next to the log.
        canonical = (path.parent / (INGEST_FILE if path.name == LOG_FILE else MANIFEST)).exists()
        description = path.parent / DATASET_FILE
        if description.exists():
            dataset = dataset or str(description)
    if not dataset:
        raise LogError(f"{log}: unknown data set. Give --dataset: a built-in name, or the path of a description")
    return path, dataset, canonical


def canonical_log(raw: RawLog, folder: Path, quarantine: Path, trusted: bool = False) -> CanonicalLog:
    """Ingest a raw log into `folder`, or return the log at its own path if it is already canonical.

    Args:
        trusted: Use the log as it is, without checking its rows.
    """
    if is_remote(raw.path):
        if trusted or not raw.dataset:
            raise LogError(messages.TRUSTED_ADDRESS(log=raw.path))
    elif raw.path:
        path, dataset, canonical = _locate(raw.path, raw.dataset)
        raw = replace(raw, dataset=dataset)
        if canonical or trusted:
            spec = DatasetSpec.load(dataset)
            if trusted and spec.conversions:
                raise LogError(messages.TRUSTED_CONVERSIONS(log=raw.path))
            spec = spec.of_canonical_log()
            _check(path, spec)
            return CanonicalLog(path, spec, None)
    elif raw.dataset and not DatasetSpec.load(raw.dataset).simulated:
        raise LogError(messages.SIMULATED_ONLY(dataset=raw.dataset))
    report = ingest(replace(raw, dataset=raw.dataset or SIMULATOR), folder, quarantine)
    return CanonicalLog(folder / LOG_FILE, DatasetSpec.load(folder / DATASET_FILE), report)


def build(
    engine: Engine, raw: RawLog, out: Path, trusted: bool = False, own: str = "", step: Step = lambda _: nullcontext()
) -> Manifest:
    """Build a data set folder from a log.

    Args:
        out: Folder to write. Faulty rows are written to `OUT.quarantine.csv` next to it.
        trusted: Use the log as it is, without checking its rows.
        own: Path of a lake whose decisions are added to the log. Empty for none.

    Raises:
        LogError: `out` contains other files, or the log can't be used.
    """
    out = out.absolute()
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= _OURS):
        raise LogError(f"{out}: contains files that `mtorl data build` did not write. Choose another --out")
    if trusted and out in Path(raw.path).absolute().parents:
        raise LogError(f"{raw.path}: is in the folder that --out replaces. Choose another --out")
    with replacing(out) as folder:
        folder.mkdir()
        with step("validate the log"):
            quarantine = out.with_name(f"{out.name}.quarantine.csv")
            with with_remedy(quarantine, raw.bad_rows):
                log = canonical_log(raw, folder, quarantine, trusted)
            # A trusted log has no report, and neither have the steps of a windows folder.
            ingested = log.path.name == LOG_FILE and not trusted
            if log.report is None:
                log.spec.save(folder / DATASET_FILE)
                if ingested:
                    _copy(log.path, folder)
        if own:
            with step("decisions"):
                log = replace(log, path=_with_decisions(engine, log, folder, own))
        with step("feature sources"):
            touchpoints = builder.clean_touchpoints(engine.read(log.path), log.spec)
            build_sources(engine, touchpoints, log.spec, folder / SOURCES)
        with step("causal windows"):
            of_log = _fingerprint(folder / LOG_FILE)
            manifest = builder.build(engine, log.path, log.spec, folder / WINDOWS, log_fingerprint=of_log)
            builder.take_opportunities(folder, folder / WINDOWS)
        if not log.spec.features:
            return manifest
        with step("stored features"), TemporaryDirectory() as repository:
            from features.offline import store  # importing Feast takes seconds

            Path(repository, "data").symlink_to(folder / SOURCES)
            store.define(repository, log.spec)
            store.training_windows(repository, folder / WINDOWS, log.spec)
            return Manifest.read(folder / WINDOWS)


def _copy(log: Path, folder: Path) -> None:
    _copy_log(log, folder)
    shutil.copyfile(log.with_name(INGEST_FILE), folder / INGEST_FILE)
    if log.with_name(OPPORTUNITIES_FILE).exists():
        link(log.with_name(OPPORTUNITIES_FILE), folder / OPPORTUNITIES_FILE)


def _copy_log(log: Path, folder: Path) -> None:
    (shutil.copytree if log.is_dir() else shutil.copyfile)(log, folder / LOG_FILE)


def _with_decisions(engine: Engine, log: CanonicalLog, folder: Path, own: str) -> Path:
    """Add the decisions of a lake to a copy of the log, and return the path of this copy."""
    if COLLECTED in pq.read_schema(parquet_files(log.path)[0]).names:
        raise LogError(messages.HAS_DECISIONS(log=log.path))
    lake, path = Lake.open(own), folder / LOG_FILE
    compact(lake, datetime.now(UTC), engine.name)
    decisions = lake.snapshot()
    if not path.exists() and not decisions:
        _copy_log(log.path, folder)
    if not _fingerprint(path):  # no report, or an old one
        found = facts_of(path) if path.exists() else {"rows": 0, "users": 0, "fingerprint": ""}
        report = IngestReport(**found, quarantined=0, faults=())
        _note(folder, {**asdict(report), RAW: Origin.of(str(log.path), log.spec).to_dict()})
    if decisions:
        add_decisions(own, folder, decisions, engine=engine.name, log=None if path.exists() else log.path)
    _note(folder, {DECISIONS: decisions})
    return path


def _note(folder: Path, more: dict[str, Any]) -> None:
    path = folder / INGEST_FILE
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **more}, indent=2))


def _fingerprint(log: Path) -> str:
    """Return the fingerprint of a log from its report, or "" if the report is missing or belongs to another log."""
    try:
        report = json.loads(log.with_name(INGEST_FILE).read_text())
        return str(report["fingerprint"]) if report["rows"] == rows_of(log) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _check(path: Path, spec: DatasetSpec) -> None:
    try:
        names, rows = pq.read_schema(parquet_files(path)[0]).names, rows_of(path)
    except (OSError, pa.ArrowException) as error:
        raise LogError(messages.UNREADABLE(file=path, kind="Parquet", reason=str(error).splitlines()[0])) from error
    if missing := [name for name in spec.log_columns if name not in names]:
        hints = ["A trusted log must have the canonical layout: docs/data.md"]
        raise LogError(messages.MISSING_COLUMNS(file=path, dataset=spec.name, missing=missing, hints=hints))
    if not rows:
        raise LogError(messages.NO_ROWS(file=path))
