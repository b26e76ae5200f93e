"""Takes log and windows from a folder of `mtorl data build`, as the source of a pipeline.

    built = Built.at("data/built")             # None: another kind of source
    built.take_log(raw, Path("log"))           # touchpoints, description, opportunities
    built.take_windows(Path("log"), Path("windows"))

A new build replaces the folder in one step, perhaps in the middle of a run. So each part is compared with what was
taken before, and a run that meets two builds ends with an error.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.ingest.log_folder import RawLog
from features.sequences.manifest import FILE as MANIFEST
from features.sequences.manifest import Manifest, ManifestError
from mtorl.log.dataset import SIMULATOR, DatasetSpec
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import DATASET_FILE, INGEST_FILE, LOG_FILE, LogError
from mtorl.runtime import progress

WINDOWS = "windows"
DECISIONS = "decisions"
"""In `INGEST_FILE` of a log that was built with collected decisions: their digest, which is empty before the first."""


@dataclass(frozen=True)
class Built:
    """A folder that `mtorl data build` has made."""

    folder: Path

    @classmethod
    def at(cls, source: str | Path, known: bool = False) -> Built | None:
        """The folder that a pipeline's source names; None for another kind of source.

        Args:
            known: Whether it was such a folder before, in the same run; then a `LogError` if it is not any more.
        """
        folder = Path(source)
        if known and not (folder / WINDOWS / MANIFEST).is_file():
            raise cls(folder)._replaced()
        return cls(folder) if str(source) not in ("", SIMULATOR) and (folder / WINDOWS / MANIFEST).is_file() else None

    @property
    def standing_for_it(self) -> tuple[Path, ...]:
        """The small files that change with anything in the folder: they hold digests of the large ones."""
        files = (INGEST_FILE, DATASET_FILE, Path(WINDOWS, MANIFEST))
        return tuple(self.folder / name for name in files if (self.folder / name).exists())

    def decisions(self) -> str | None:
        """Digest of the collected decisions that the log was made with; None if it was built without any."""
        report = self._report() if (self.folder / INGEST_FILE).exists() else {}
        return str(report[DECISIONS]) if DECISIONS in report else None

    def said(self) -> str:
        """Sums up the log in words."""
        report = self._report()
        found = report.get("collected")
        own = f"{found['exposures']:,} exposures of {found['decisions']:,} collected decisions" if found else "none"
        return f"{self.folder}: {report['rows']:,} touchpoints; of own decisions among them: {own}"

    def take_log(self, raw: RawLog, decisions: str, most_touchpoints: int, out: Path) -> str:
        """Take the log, as `features.ingest.log_folder.ingest` and `add_decisions` would write it; sum it up in words.

        Args:
            decisions: Digest of the decisions that the log should have; "" for none.
            most_touchpoints: The training's limit; 0 for none.
        """
        if not all((self.folder / name).exists() for name in (LOG_FILE, INGEST_FILE)):
            raise LogError(
                f"{self.folder}: has windows and no log of its own, as after `mtorl data build --trusted`; "
                "build it with --collected as well, which keeps the log"
            )
        with self._unchanged():
            report = self._report()
            self._check(raw, report, decisions, most_touchpoints)
            out.mkdir(parents=True, exist_ok=True)
            for name in (DATASET_FILE, INGEST_FILE):
                shutil.copyfile(self.folder / name, out / name)  # no links: these are written in place
            for name in (LOG_FILE, OPPORTUNITIES_FILE):
                if (self.folder / name).exists():
                    link(self.folder / name, out / name)
        return self.said()

    def take_windows(self, log: Path, out: Path) -> int:
        """Take the windows of a log that `take_log` has written; returns their number."""
        with self._unchanged():
            manifest = self._manifest()
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
        """Refuse a log that does not fit the arguments of `take_log`."""
        wanted, there = (DatasetSpec.load(one).of_canonical_log() for one in (raw.dataset, self.folder / DATASET_FILE))
        if wanted != there:
            one, other = wanted.to_dict(), there.to_dict()
            fields = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
            raise LogError(
                f"{self.folder}: was built by another description than {raw.dataset}; they differ in "
                f"{', '.join(fields)}. Build it again, or give the one by which it was built"
            )
        if 0 < raw.users < report["users"]:
            raise LogError(f"{self.folder}: users: a built log is taken whole; leave it 0, or build a smaller log")
        if 0 < most_touchpoints < report["rows"]:
            raise LogError(f"{self.folder}: most_touchpoints: a built log is taken whole; leave it 0")
        if decisions and DECISIONS not in report:
            raise LogError(
                f"{self.folder}: was built without the decisions that are collected; build it with --collected, "
                "or set the parameter collected to an empty value to train without them"
            )
        if report.get(DECISIONS, decisions) != decisions:
            raise self._replaced()
        if self._manifest().log_fingerprint != report["fingerprint"]:
            raise LogError(
                f"{self.folder}: its windows are not those of its log, as after `mtorl data forget`; build it again"
            )

    def _report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.folder / INGEST_FILE).read_text())
        return report

    def _manifest(self) -> Manifest:
        try:
            return Manifest.read(self.folder / WINDOWS)
        except ManifestError as error:  # of another release, which built it
            raise LogError(str(error)) from error

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Check that all files read in the block are of one build."""
        files = self.standing_for_it
        try:
            before = [file.read_bytes() for file in files]
            yield
            after = [file.read_bytes() for file in files]
        except FileNotFoundError:
            raise self._replaced() from None
        except shutil.Error:  # of the parts of a folder
            there = [file.read_bytes() if file.exists() else b"" for file in files]
            if there != before:
                raise self._replaced() from None
            raise
        if before != after:
            raise self._replaced()

    def _replaced(self) -> LogError:
        return LogError(
            f"{self.folder}: was replaced by another build while this run was reading it; run again, which takes the "
            "new one"
        )


def link(source: Path, target: Path) -> None:
    """Hard-link a Parquet file, or the parts in a folder; copy where the file system has no links.

    A changed file is always a new one in its place, so the link keeps the old content.
    """
    shutil.copytree(source, target, copy_function=_link) if source.is_dir() else _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
