"""Tests that a folder of `mtorl data build` gives the same training data as the raw log."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kfp.dsl import Artifact, Dataset

from components.build_features.component import build_features
from components.compact.component import compact
from components.fingerprint.component import fingerprint
from components.ingest.component import ingest
from components.validate.component import validate
from features.data_folder import build
from features.engine import open_engine
from features.ingest.log_folder import RawLog
from mtorl.log.dataset import DatasetSpec
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import LOG_FILE
from mtorl.log.trainings import LogFacts, Training, add
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from tests.components.artifacts import CODE, USERS, Output

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def night(first_night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a raw log, a decision log, and the data built from both.

    In some decisions, the user's features are unknown.
    """
    folder = tmp_path_factory.mktemp("built")
    Simulator(SimulatorConfig(users=USERS, seed=7)).log().to_csv(folder / "raw.csv.gz", index=False)
    content = DatasetSpec.load("simulator").to_dict() | {"name": "mine", "adapter": "touchpoints"}
    content["static"] = [{**column, "missing": "unknown"} for column in content["static"]]
    DatasetSpec.from_dict(content).save(folder / "mine.yaml")
    for file in (first_night / "lake").rglob("*.parquet"):
        records = pq.read_table(file, partitioning=None)
        if "static" in records.column_names:
            at = records.schema.get_field_index("static")
            known = [text if row % 7 else _unknown(text) for row, text in enumerate(records[at].to_pylist())]
            records = records.set_column(at, records.schema.field(at), [known])
        target = folder / "lake" / file.relative_to(first_night / "lake")
        target.parent.mkdir(parents=True)
        pq.write_table(records, target)
    with open_engine("duckdb") as engine:
        build(engine, raw(folder), folder / "built", own=str(folder / "lake"))
    return folder


def raw(night: Path) -> RawLog:
    return RawLog(str(night / "raw.csv.gz"), str(night / "mine.yaml"))


def _unknown(static: str) -> str:
    return json.dumps(dict.fromkeys(json.loads(static)))


class Windows:
    """Outputs of the steps that read a source and build its windows."""

    def __init__(self, source: Path, night: Path, output: Output) -> None:
        name, dataset, lake = str(source), str(night / "mine.yaml"), str(night / "lake")
        self.log, self.windows = output(Dataset, "log"), output(Dataset, "windows")
        content = fingerprint.python_func(name, dataset, "")[0]
        self.decisions = compact.python_func(lake, name)
        given = (name, dataset, "fail", 0, 7, content, lake, self.decisions, 0, "", "", CODE)
        self.read = ingest.python_func(*given, self.log, output(Artifact, "quarantine"))
        definitions = output(Artifact, "definitions")
        self.rows = build_features.python_func(self.log, name, "", "", CODE, self.windows, definitions)


@pytest.fixture(scope="module")
def made(night: Path, output: Output) -> dict[str, Windows]:
    return {name: Windows(night / name, night, output) for name in ("raw.csv.gz", "built")}


def test_log_and_windows_are_identical(made: dict[str, Windows], night: Path) -> None:
    raw, built = made["raw.csv.gz"], made["built"]
    assert raw.read == built.read and raw.rows == built.rows == built.read[0]
    assert raw.log.metadata["fingerprint"] == built.log.metadata["fingerprint"]
    assert (raw.log.metadata["built"], built.log.metadata["built"]) == (False, True)
    assert raw.decisions == built.decisions != ""
    for name in (LOG_FILE, OPPORTUNITIES_FILE):
        keys = [(key, "ascending") for key in ("user_id", "timestamp")]
        files = [pq.read_table(Path(one.log.path, name)).sort_by(keys) for one in (raw, built)]
        assert files[0].equals(files[1]), name
    assert (Path(built.log.path) / LOG_FILE).samefile(night / "built" / LOG_FILE)
    one, other = (pq.read_table(Path(side.windows.path) / "steps" / "part-00000.parquet") for side in (raw, built))
    for name in other.column_names:
        assert one[name].combine_chunks().equals(other[name].combine_chunks()), name
    assert one.column_names == other.column_names
    statics = pq.read_table(night / "built" / LOG_FILE, columns=["user_id", "age_group"]).to_pandas()
    assert statics["age_group"].isna().any(), "some decisions must lack features"
    assert not other["age_group"].null_count
    history = str(night / "trainings")
    add(
        Path(history), Training(at=datetime.now(UTC), log=LogFacts.of(Path(raw.log.path)), decision="reject", reason="")
    )
    assert validate.python_func(built.log, history, "fail").startswith("+0 touchpoints")


def test_decisions_are_those_of_the_build(night: Path, made: dict[str, Windows]) -> None:
    built, lake = str(night / "built"), str(night / "lake")
    assert compact.python_func("", built) == compact.python_func(lake, built) == made["built"].decisions
    with open_engine("duckdb") as engine:
        build(engine, raw(night), night / "without")
    assert compact.python_func(lake, str(night / "without")) == made["built"].decisions
