"""Tests that a budget plan from a lake is written into a valid experiment file."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.first_file import first_file
from pipelines.budget_plan import plan_budget, whole_users, write_budgets
from tests.features.collect.decision_logs import SPEC, outcome, write
from tests.features.collect.small_model import save_small_model
from tests.features.collect.test_shadows import ours


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    names = [f"d{i}" for i in range(120)]
    decisions = [ours(name, 36 * i, user_id=f"u{i % 40}", campaign_id="spring") for i, name in enumerate(names)]
    paid = [outcome(f"c{name}", name, "cost", 0.3, 36 * i + 1) for i, name in enumerate(names)]
    clicked = [outcome(f"k{name}", name, "click", 1.0, 36 * i + 1) for i, name in enumerate(names) if i % 3 == 0]
    write(folder / "lake", decisions, [*paid, *clicked])
    save_small_model(folder / "model")
    text = first_file(SPEC, name="first", salt="s", owner="ads", described="toy.yaml")
    (folder / "first.yaml").write_text(text.replace("layer: ", "layer_part: [0, 0.5]\nlayer: ", 1))
    return folder


def test_a_plan_is_written_into_the_experiment_file(folder: Path) -> None:
    file, out = folder / "first.yaml", folder / "next.yaml"
    planned = plan_budget(str(folder / "lake"), str(file), folder / "model", "incumbent", 10.0, 2.0)
    assert planned.rows == 80, "the last day is left out because its outcomes may still arrive"
    assert planned.users == 40 and planned.plan.traffic.decisions == pytest.approx(80, rel=0.05)
    write_budgets(planned, file, out, datetime(2026, 2, 1, tzinfo=UTC))
    before, after = Experiment.load(file), Experiment.load(out)
    (budget,) = after.budgets
    assert (budget.campaign, budget.amount) == ("spring", 20.0), "the experiment has half of the layer's users"
    assert budget.pacing is not None and budget.pacing.end == "2026-02-03T00:00:00+00:00"
    assert after.model_copy(update={"budgets": before.budgets}) == before
    kept = [line for line in file.read_text().splitlines() if line.startswith("# ") and not line.startswith("# - ")]
    assert set(kept) <= set(out.read_text().splitlines())


def test_a_sample_contains_all_decisions_of_its_users() -> None:
    rows = pd.DataFrame({"user_id": [*"aab", *"cccc"]})
    kept = {most: "".join(whole_users(rows, most)["user_id"]) for most in (2, 3, 6, 7)}
    assert kept == {2: "aa", 3: "aab", 6: "aab", 7: "aabcccc"}


def test_the_command_reports_invalid_input(folder: Path) -> None:
    options = ["--experiment", str(folder / "first.yaml"), "--model", str(folder / "model"), "--budget"]
    asked = ["budget", "plan", str(folder / "lake"), *options]
    assert "'x'" in CliRunner().invoke(app, [*asked, "1", "--arm", "x"]).output
    found = CliRunner().invoke(app, [*asked, "10", "--arm", "incumbent", "--json", "--page", str(folder / "p.html")])
    assert found.exit_code == 0 and yaml.safe_load(found.stdout)["chosen"]["spend"] == 10.0
    assert ": 80 decisions" in (folder / "p.html").read_text()
