"""A training from the folder of `mtorl data build` is the training from the raw log, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kfp.dsl import Artifact, Dataset, Metrics, Model

from components.build_features.component import build_features
from components.compact.component import compact
from components.evaluate.component import evaluate
from components.fingerprint.component import fingerprint
from components.fit_incumbent.component import fit_incumbent
from components.gate.component import gate
from components.ingest.component import ingest
from components.train_challenger.component import train_challenger
from components.validate.component import validate
from features.data_folder import build
from features.engine import open_engine
from features.ingest.log_folder import RawLog
from mtorl.log.dataset import DatasetSpec
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import LOG_FILE
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from tests.components.artifacts import CODE, USERS, Output

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def night(first_night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw log, what was decided, and both built; of some users the store knew nothing when it was asked for them."""
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


class Trained:
    """What the steps of a training leave, from the log to the evaluation."""

    def __init__(self, source: Path, night: Path, output: Output) -> None:
        name, dataset, lake = str(source), str(night / "mine.yaml"), str(night / "lake")
        self.log, self.windows, self.definitions = (
            output(kind, name) for kind, name in ((Dataset, "log"), (Dataset, "windows"), (Artifact, "definitions"))
        )
        content = fingerprint.python_func(name, dataset, "")[0]
        decisions = compact.python_func(lake, name)
        self.decisions = decisions
        quarantine = output(Artifact, "quarantine")
        self.read = ingest.python_func(
            name, dataset, "fail", 0, 7, content, lake, decisions, 0, "", "", CODE, self.log, quarantine
        )
        self.rows = build_features.python_func(self.log, name, "", "", CODE, self.windows, self.definitions)
        self.incumbent, self.challenger = output(Model, "incumbent"), output(Model, "challenger")
        fit_incumbent.python_func(self.windows, "", "", CODE, self.incumbent)
        settings = "{hidden: 8, levels: 1, heads: 1}"
        train_challenger.python_func(
            self.windows, 1, 7, 0.6, settings, CODE, "", "", self.challenger, output(Metrics, "metrics")
        )
        self.evaluation, metrics = output(Artifact, "evaluation"), output(Metrics, "metrics")
        evaluate.python_func(self.windows, self.challenger, self.incumbent, 0.6, 7, CODE, self.evaluation, metrics)

    def model(self) -> dict[str, bytes]:
        """All files of both artifacts but those that say when they were made and how long it took."""
        said = ("model.json", "metrics.json")
        files = [path for arm in (self.incumbent, self.challenger) for path in Path(arm.path).rglob("*")]
        return {f"{path.parent}/{path.name}"[-40:]: path.read_bytes() for path in files
                if path.is_file() and path.name not in said}  # fmt: skip


@pytest.fixture(scope="module")
def trained(night: Path, output: Output) -> dict[str, Trained]:
    return {name: Trained(night / name, night, output) for name in ("raw.csv.gz", "built")}


def test_log_and_windows_are_the_same(trained: dict[str, Trained], night: Path) -> None:
    raw, built = trained["raw.csv.gz"], trained["built"]
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
    assert statics["age_group"].isna().any(), "of some decisions nothing was known"
    assert not other["age_group"].null_count


def test_the_challenger_is_the_same_and_so_is_what_is_found_of_it(trained: dict[str, Trained]) -> None:
    raw, built = trained["raw.csv.gz"].model(), trained["built"].model()
    assert len(raw) == len(built) > 6
    assert sorted(raw.values()) == sorted(built.values())
    evaluations = [json.loads(Path(one.evaluation.path).read_text()) for one in trained.values()]
    assert evaluations[0] == evaluations[1]
    assert evaluations[0]["valued_on"] == "opportunities"


def test_what_is_compared_and_noted_is_the_same(trained: dict[str, Trained], tmp_path: Path) -> None:
    raw, built = trained.values()
    assert validate.python_func(built.log, str(tmp_path), "fail") == "the first training here"
    gate.python_func(raw.evaluation, raw.log, -9.0, str(tmp_path))
    assert validate.python_func(built.log, str(tmp_path), "fail") == "+0 touchpoints since the newest training"


def test_decisions_are_those_that_the_log_was_built_with(night: Path, trained: dict[str, Trained]) -> None:
    """Without the parameter, the log has them as well."""
    built, lake = str(night / "built"), str(night / "lake")
    assert compact.python_func("", built) == compact.python_func(lake, built) == trained["built"].decisions
    with open_engine("duckdb") as engine:
        build(engine, raw(night), night / "without")
    assert compact.python_func(lake, str(night / "without")) == trained["built"].decisions
