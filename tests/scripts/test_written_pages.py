import runpy
from pathlib import Path

import pytest
import yaml

from tests.manifests.conftest import FOLDERS, rendered
from tests.repository import ROOT


@pytest.mark.parametrize("name", ["write_command_line", "write_metrics", "write_conformance"])
def test_the_page_is_current(name: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), f"run python scripts/{name}.py"


CONFORMANCE = runpy.run_path(str(ROOT / "scripts" / "write_conformance.py"))
FEATURES = yaml.safe_load(CONFORMANCE["FEATURES"].read_text())


def test_the_features_name_every_kind_of_object_and_existing_tests() -> None:
    listed = [kind for feature in FEATURES for kind in feature.get("kinds", ())]
    assert len(set(listed)) == len(listed) and {o["kind"] for target in FOLDERS for o in rendered(target)} <= set(
        listed
    )
    for test in (test for feature in FEATURES for test in feature.get("tests", ())):
        file, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / "tests" / "cluster" / file).read_text(), test


def test_the_newest_result_of_each_test_reaches_the_page(tmp_path: Path) -> None:
    night, page = "test_nights_train_on_what_is_new_and_only_then", "test_there_is_something_to_run"
    trained = "test_two_nodes_train_and_a_killed_one_is_started_again"
    cases = [("test_kfp", night, "<skipped/>"), ("test_runbooks", page, ""), ("test_trainer", trained, "<failure/>")]
    cases.append(("test_admission", "test_a_target_is_admitted_whole", "<failure/>"))
    case = '<testcase classname="tests.cluster.{}" name="{}[foundation/dev]">{}</testcase>'
    (tmp_path / "run.xml").write_text(f"<all>{''.join(case.format(*one) for one in cases)}</all>")
    rendered("foundation/dev")  # skips if there is no kubectl
    old = {"node": {"result": "failed", "kubernetes": "1.33.0", "date": "2026-01-01"}}
    record = {f"test_kfp.py::{night}": old, "test_running.py::test_of_another_name": old}
    found = CONFORMANCE["results"](tmp_path / "run.xml")
    CONFORMANCE["add"](record, found, "node", {"kubernetes": "1.34.4", "date": "2026-12-01"})
    rows = [line.split(" | ") for line in CONFORMANCE["page"](record).splitlines() if line.endswith(" |")]
    on_a_node = {row[3].strip("` |"): row[2] for row in rows}
    assert on_a_node["test_runbooks.py"] == "ran 2026-12-01, 1.34.4"
    assert on_a_node["test_trainer.py"] == f"ran 2026-12-01, 1.34.4; `test_trainer.py::{trained}` **failed**"
    assert "admitted 2026-12-01, 1.34.4; `PersistentVolumeClaim` **failed**" in {row[2] for row in rows}
    assert f"ran 2026-01-01, 1.33.0; `test_kfp.py::{night}` **failed**" in {row[2] for row in rows}
    assert on_a_node["test_install_page.py"] == "no recorded run" and on_a_node["none"] == "no test"
