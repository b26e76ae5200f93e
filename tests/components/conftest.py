"""Fixtures with the outputs of pipeline steps, each called once on a small simulated log."""

from pathlib import Path

import pytest
from kfp.dsl import Artifact, Dataset, Metrics, Model

from benchmarks.generation_runs.night import Served, serve
from components.build_features.component import build_features
from components.evaluate.component import evaluate
from components.fingerprint.component import fingerprint
from components.fit_incumbent.component import fit_incumbent
from components.gate.component import gate
from components.ingest.component import ingest
from components.package.component import package
from components.train_challenger.component import train_challenger
from mtorl.artifact.artifact import load
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from tests.components.artifacts import CODE, ROUNDS, USERS, Output


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Output:
    def make(kind: type[Artifact], name: str) -> Artifact:
        return kind(name=name, uri=str(tmp_path_factory.mktemp(name) / name))

    return make


@pytest.fixture(scope="session")
def log(output: Output) -> Artifact:
    made = output(Dataset, "log")
    content = fingerprint.python_func("simulator", "simulator", "")[0]
    given = ("simulator", "simulator", "fail", USERS, 7, content, "", "", 0, "", "", CODE)
    ingest.python_func(*given, made, output(Artifact, "quarantine"))
    return made


@pytest.fixture(scope="session")
def definitions(output: Output) -> Artifact:
    return output(Artifact, "definitions")


@pytest.fixture(scope="session")
def windows(log: Artifact, definitions: Artifact, output: Output) -> Artifact:
    made = output(Dataset, "windows")
    made.metadata["returned"] = build_features.python_func(log, "simulator", "", "", CODE, made, definitions)
    return made


@pytest.fixture(scope="session")
def incumbent(windows: Artifact, output: Output) -> Artifact:
    made = output(Model, "incumbent")
    fit_incumbent.python_func(windows, "", "", CODE, made)
    return made


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("volume")


@pytest.fixture(scope="session")
def challenger(windows: Artifact, volume: Path, output: Output) -> Artifact:
    made, metrics = output(Model, "challenger"), output(Metrics, "metrics")
    returned = train_challenger.python_func(windows, 1, 7, 0.6, "", CODE, str(volume), "", made, metrics)
    made.metadata |= {"returned": returned, "metrics": metrics}
    return made


@pytest.fixture(scope="session")
def evaluation(windows: Artifact, challenger: Artifact, incumbent: Artifact, output: Output) -> Artifact:
    made, metrics = output(Artifact, "evaluation"), output(Metrics, "metrics")
    evaluate.python_func(windows, challenger, incumbent, 0.6, 7, CODE, made, metrics)
    made.metadata["metrics"] = metrics
    return made


@pytest.fixture(scope="session")
def judged(evaluation: Artifact, log: Artifact, output: Output) -> Artifact:
    made = output(Artifact, "report")
    gate.python_func(evaluation, log, 0.01, 0.02, "", made)
    return made


@pytest.fixture(scope="session")
def model_store(challenger: Artifact, incumbent: Artifact, output: Output) -> Artifact:
    made = output(Artifact, "model_store")
    package.python_func(challenger, incumbent, made)
    return made


@pytest.fixture(scope="session")
def first_night(challenger: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose `lake` contains the first model's decisions for all users."""
    folder = tmp_path_factory.mktemp("night")
    simulator = Simulator(SimulatorConfig(users=USERS, seed=7))
    online = simulator.online(simulator.user_ids, ROUNDS, seed=1)
    how = Served(load(Path(challenger.path)), budget=0.2, price=0.25, explore=0.1)
    serve(online, range(ROUNDS), how, 1, folder / "lake")
    return folder
