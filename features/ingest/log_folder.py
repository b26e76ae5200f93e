"""Validates a raw log, or simulates a log, and writes it to a folder. This is the first step of every run.

    before = content_of(raw)                   # a digest, because a pipeline's cache knows only the path of a log
    ingest(raw, Path("log"), quarantine)       # writes touchpoints.parquet, dataset.yaml, ingest.json
    check_unchanged(raw, before)

A run can also start from a folder that `mtorl data build` has written (`Built`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import pyarrow.parquet as pq

from features import messages
from features.engine import is_unfinished, open_engine
from features.ingest.ingest import IngestReport, ingest_log
from features.ingest.object_store import marks
from features.sequences.manifest import FILE as MANIFEST
from features.sequences.manifest import Manifest
from mtorl.log.dataset import SIMULATOR, DatasetSpec, SpecError
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.sources import is_remote
from mtorl.log.splits import unit_order
from mtorl.log.touchpoints import DATASET_FILE, INGEST_FILE, LOG_FILE, LogError, fingerprint, write_log
from mtorl.runtime import progress
from mtorl.runtime.files import link, replacing, sha256_of
from mtorl.runtime.message import Message
from mtorl.simulator.raw_log import write_raw_log
from mtorl.simulator.simulator import Simulator, SimulatorConfig

RAW = "raw"
"""Key in `INGEST_FILE` with the `Origin` of the log; the value is null if the simulator wrote the log."""


@dataclass(frozen=True)
class Origin:
    """The source of a log: the path or address of the raw log, and the description with which it was read."""

    log: str
    spec: DatasetSpec

    @classmethod
    def of(cls, path: str, spec: DatasetSpec) -> Origin:
        """Return the origin of a log. A local path is made absolute, so that it is valid in any working folder."""
        return cls(path if is_remote(path) else str(Path(path).absolute()), spec)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; `from_dict` is the inverse."""
        return {"log": self.log, "description": self.spec.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Origin:
        """Create an origin from the values of `to_dict`."""
        return cls(data["log"], DatasetSpec.from_dict(data["description"]))


@dataclass(frozen=True)
class RawLog:
    """A raw log that is to be ingested, and how to read it.

    Attributes:
        path: A file, a folder or an address in an object store. If it is empty, a log is simulated.
        bad_rows: "fail" stops if there are faulty rows. "quarantine" continues without these rows.
        users: Number of users to simulate, or to keep from the log. 0 means 6,000 simulated users, or all users.
    """

    path: str = ""
    dataset: str = SIMULATOR
    bad_rows: str = "fail"
    users: int = 0
    seed: int = 7

    @classmethod
    def named(cls, source: str, dataset: str, bad_rows: str = "fail", users: int = 0, seed: int = 7) -> RawLog:
        """Create a `RawLog` from the arguments of a pipeline.

        Raises:
            LogError: `source` or `dataset` is empty, or `bad_rows` is unknown.
        """
        if not source:
            raise LogError(f"source: give the path of the touchpoint log, or {SIMULATOR!r} to simulate one")
        if not dataset:
            raise LogError("dataset: give the path of the log's description, or the name of a built-in data set")
        return cls("" if source == SIMULATOR else source, dataset, bad_rows, users, seed)

    def __post_init__(self) -> None:
        if self.bad_rows not in ("fail", "quarantine"):
            raise LogError(f"bad_rows: {self.bad_rows!r} is not one of fail, quarantine")


def ingest(raw: RawLog, folder: Path, quarantine: Path) -> IngestReport:
    """Validate a raw log, or simulate one, and write it to `folder` with its description and a report."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        spec = DatasetSpec.load(raw.dataset)
        report = _from_file(raw, spec, folder / LOG_FILE, quarantine) if raw.path else _simulated(raw, spec, folder)
    except (LogError, SpecError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    spec.of_canonical_log().save(folder / DATASET_FILE)
    origin = Origin.of(raw.path, spec).to_dict() if raw.path else None
    (folder / INGEST_FILE).write_text(json.dumps({**asdict(report), RAW: origin}, indent=2))
    return report


def _simulated(raw: RawLog, spec: DatasetSpec, folder: Path) -> IngestReport:
    if not spec.simulated:
        raise LogError(messages.SIMULATED_ONLY(dataset=spec.name))
    log = Simulator(SimulatorConfig(users=raw.users or SimulatorConfig.users, seed=raw.seed)).log()
    write_log(log, folder / LOG_FILE, spec)
    return IngestReport(
        rows=len(log), users=log["user_id"].nunique(), quarantined=0, faults=(), fingerprint=fingerprint(log)
    )


def _from_file(raw: RawLog, spec: DatasetSpec, path: Path, quarantine: Path) -> IngestReport:
    report = ingest_log(raw.path, spec, path, quarantine, raw.bad_rows)
    if not raw.users or raw.users >= report.users:
        return report
    # All rows of the chosen users stay, so that their journeys are complete.
    with open_engine("duckdb") as engine:
        log = engine.read(path)
        everyone = log.select("user_id").distinct().to_pyarrow()["user_id"].to_pylist()
        chosen = ibis.memtable({"user_id": unit_order(everyone, raw.seed)[: raw.users]})
        engine.write(log.semi_join(chosen, "user_id").order_by("user_id", "timestamp"), path)
    with pq.ParquetFile(path) as file:
        content = fingerprint(file.iter_batches())
        return replace(report, rows=file.metadata.num_rows, users=raw.users, fingerprint=content)


def first_log(volume: Path, raw: RawLog, simulate: bool, quarantine: Path) -> Path:
    """Return the path of the log on a volume, and create the log if there is none.

    A new log is ingested from `raw`, or simulated so that it ends yesterday.
    """
    path = volume / LOG_FILE
    spec = DatasetSpec.load(raw.dataset)
    if simulate and not spec.simulated:
        raise LogError(f"simulate: {spec.name!r} is not the simulator's data set. Remove simulate, or the data set")
    if path.exists():
        return path
    if not raw.path and not simulate:
        raise LogError(
            f"no touchpoint log at {path}. Write a log there in the layout of docs/data.md, give another path (log), "
            "or set simulate to use simulated users"
        )
    volume.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=volume, prefix=".first-log-") as folder:
        log = Path(folder, LOG_FILE)
        if raw.path:
            ingest(raw, Path(folder), quarantine)
        else:
            market = SimulatorConfig(users=raw.users or SimulatorConfig.users, seed=raw.seed)
            first_day = datetime.now(UTC).date() - timedelta(days=market.days)
            write_raw_log(log, replace(market, start=first_day.isoformat()))
        with replacing(path) as unfinished:
            log.rename(unfinished)
    return path


def content_of(raw: RawLog) -> str:
    """Return a SHA-256 digest (hex) that changes if a log, its description or one of its additional files changes."""
    spec = DatasetSpec.load(raw.dataset)
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode())
    if built := Built.at(raw.path):
        for file in built.key_files:
            digest.update(f"\n{file.relative_to(built.folder)}:{sha256_of(file)}".encode())
        return digest.hexdigest()
    second = [spec.conversions.source] if spec.conversions else []
    paths = [path for path in (raw.path, *second, *(view.source for view in spec.features)) if path]
    for address in filter(is_remote, paths):
        for name, mark in marks(address):
            digest.update(f"\n{name}:{mark}".encode())
    files = [(name, file) for path in paths if not is_remote(path) for name, file in _files(Path(path))]
    for done, (name, file) in enumerate(files):
        progress.report(done, len(files), file.name)
        digest.update(f"\n{name}:{sha256_of(file)}".encode())
    return digest.hexdigest()


def check_unchanged(raw: RawLog, content: str) -> None:
    """Raise a `LogError` if a log has changed since `content_of` returned `content`."""
    if content_of(raw) != content:
        raise LogError(messages.CHANGED(log=raw.path or raw.dataset))


def _files(path: Path) -> list[tuple[str, Path]]:
    """Return the relative name and the path of each finished file in a folder, or of a single file."""
    if not path.exists():
        raise LogError(messages.NO_FILE(file=path))
    if path.is_file():
        return [("", path)]
    names = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return [(str(name), path / name) for name in names if not is_unfinished(name)]


WINDOWS = "windows"
DECISIONS = "decisions"
"""Key in `INGEST_FILE` that exists if our own decisions were added to the log. The value is their snapshot, or empty if
there were no decisions yet."""


@dataclass(frozen=True)
class Built:
    """A folder that `mtorl data build` has written, used as the source of a run."""

    folder: Path

    @classmethod
    def at(cls, source: str | Path, known: bool = False) -> Built | None:
        """Return the built folder at a path, or None if the path is something else.

        Raises:
            LogError: `known` is true, but the path is no longer a built folder.
        """
        folder = Path(source)
        if known and not (folder / WINDOWS / MANIFEST).is_file():
            raise cls(folder)._replaced()
        return cls(folder) if str(source) not in ("", SIMULATOR) and (folder / WINDOWS / MANIFEST).is_file() else None

    @property
    def key_files(self) -> tuple[Path, ...]:
        """Small files that change with every build, because they contain digests of the large files."""
        files = (INGEST_FILE, DATASET_FILE, Path(WINDOWS, MANIFEST))
        return tuple(self.folder / name for name in files if (self.folder / name).exists())

    def decisions(self) -> str | None:
        """Return the `Lake.snapshot` whose decisions the log contains, or None if it was built without a lake."""
        report = self._report() if (self.folder / INGEST_FILE).exists() else {}
        return str(report[DECISIONS]) if DECISIONS in report else None

    def summary(self) -> Message:
        """Return a sentence with the number of touchpoints, exposures and decisions in the log."""
        report = self._report()
        own = report.get("collected") or {"exposures": 0, "decisions": 0}
        return messages.BUILT(
            folder=self.folder, rows=report["rows"], exposures=own["exposures"], decisions=own["decisions"]
        )

    def take_log(self, raw: RawLog, decisions: str, most_touchpoints: int, out: Path) -> Message:
        """Copy or link the built log into the folder `out`, as `ingest` and `add_decisions` would have written it.

        Args:
            decisions: Snapshot of the lake whose decisions the log should contain. Empty for none.
            most_touchpoints: Largest number of touchpoints that the training may read. 0 means no limit.

        Raises:
            LogError: The folder does not fit the arguments, or was replaced by another build.
        """
        if not all((self.folder / name).exists() for name in (LOG_FILE, INGEST_FILE)):
            raise LogError(messages.WITHOUT_LOG(folder=self.folder))
        with self._unchanged():
            report = self._report()
            self._check(raw, report, decisions, most_touchpoints)
            out.mkdir(parents=True, exist_ok=True)
            for name in (DATASET_FILE, INGEST_FILE):
                # The run changes these two files, so they are copied instead of linked.
                shutil.copyfile(self.folder / name, out / name)
            for name in (LOG_FILE, OPPORTUNITIES_FILE):
                if (self.folder / name).exists():
                    link(self.folder / name, out / name)
        return self.summary()

    def take_windows(self, log: Path, out: Path) -> int:
        """Link the windows that belong to the log of `take_log` into `out`. Returns their number."""
        with self._unchanged():
            manifest = Manifest.read(self.folder / WINDOWS)
            same = DatasetSpec.load(log / DATASET_FILE) == DatasetSpec.load(self.folder / WINDOWS / DATASET_FILE)
            if manifest.log_fingerprint != json.loads((log / INGEST_FILE).read_text())["fingerprint"] or not same:
                raise self._replaced()
            for done, shard in enumerate(manifest.shards):
                progress.report(done, len(manifest.shards), shard.file)
                (out / shard.file).parent.mkdir(parents=True, exist_ok=True)
                link(self.folder / WINDOWS / shard.file, out / shard.file)
            for name in (DATASET_FILE, MANIFEST):
                shutil.copyfile(self.folder / WINDOWS / name, out / name)
        if (log / OPPORTUNITIES_FILE).exists():
            link(log / OPPORTUNITIES_FILE, out / OPPORTUNITIES_FILE)
        return manifest.rows

    def _check(self, raw: RawLog, report: dict[str, Any], decisions: str, most_touchpoints: int) -> None:
        wanted, there = (DatasetSpec.load(one).of_canonical_log() for one in (raw.dataset, self.folder / DATASET_FILE))
        if wanted != there:
            one, other = wanted.to_dict(), there.to_dict()
            fields = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
            raise LogError(messages.OTHER_DESCRIPTION(folder=self.folder, dataset=raw.dataset, fields=fields))
        if 0 < raw.users < report["users"]:
            raise LogError(messages.TAKEN_WHOLE(folder=self.folder, setting="users"))
        if 0 < 1.05 * most_touchpoints < report["rows"]:  # users are sampled, so 5 % more rows are allowed
            raise LogError(messages.TAKEN_WHOLE(folder=self.folder, setting="most_touchpoints"))
        if decisions and DECISIONS not in report:
            raise LogError(messages.WITHOUT_DECISIONS(folder=self.folder))
        if report.get(DECISIONS, decisions) != decisions:
            raise self._replaced()
        if Manifest.read(self.folder / WINDOWS).log_fingerprint != report["fingerprint"]:
            raise LogError(messages.OTHER_WINDOWS(folder=self.folder))

    def _report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.folder / INGEST_FILE).read_text())
        return report

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Raise a LogError if the folder was replaced by another build while the `with` block was reading it."""
        files = self.key_files
        try:
            before = [file.read_bytes() for file in files]
            yield
            after = [file.read_bytes() for file in files]
        except FileNotFoundError:
            raise self._replaced() from None
        except shutil.Error:  # copying a folder of parts has failed
            there = [file.read_bytes() if file.exists() else b"" for file in files]
            if there != before:
                raise self._replaced() from None
            raise
        if before != after:
            raise self._replaced()

    def _replaced(self) -> LogError:
        return LogError(messages.REPLACED(folder=self.folder))
