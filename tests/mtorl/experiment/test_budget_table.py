from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import csv, parquet

from mtorl.experiment import messages
from mtorl.experiment.budget import Budget
from mtorl.experiment.budget_table import COLUMNS, UNREAD, BudgetTable, forget_tables
from mtorl.experiment.experiment import Experiment, ExperimentError, text_with_table
from mtorl.experiment.layers import Experiments
from mtorl.policy.schedule import Pacing
from mtorl.runtime.message import Words
from tests.experiments import experiment
from tests.messages import assert_says, raises

HOURS = [float(hour) for hour in range(24)]
LINES: list[dict[str, Any]] = [
    {"campaign": "spring", "channel": "*", "amount": 200.0, "period": "day", "timezone": "Europe/Berlin"},
    {"campaign": "spring", "channel": "video", "amount": 8.5, "pacing": {"opportunities": 500}},
    {"campaign": "summer", "channel": "*", "amount": 12.0, "period": "day", "pacing": None},
    {"campaign": "autumn", "channel": "*", "amount": 1.0, "period": "hour", "pacing": {"price": 0.5, "traffic": HOURS}},
    {
        "campaign": "winter",
        "channel": "*",
        "amount": 0.0,
        "pacing": {"start": "2026-11-01T00:00:00Z", "end": "2026-12-01T00:00:00Z"},
    },
]
CSV = (
    f"{','.join(COLUMNS)}\n"
    "spring,*,200,day,Europe/Berlin,,,,,,\n"
    "spring,video,8.5,,,,,,,,500\n"
    "summer,*,12,day,,none,,,,,\n"
    f"autumn,*,1,hour,,,0.5,{' '.join(map(str, HOURS))},,,\n"
    "winter,*,0,,,,,,2026-11-01T00:00:00Z,2026-12-01T00:00:00Z,\n"
)
HEAD = "campaign,channel,amount"


def file_of(folder: Path, table: str = "budgets.csv", **changes: Any) -> Path:
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment("http://x", **{"budgets": [], "budget_table": table, **changes})))
    return file


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_equals_budgets_in_the_file(tmp_path: Path, kind: str) -> None:
    if kind == "csv":
        (tmp_path / "budgets.csv").write_text(CSV)
    else:
        texts = {"column_types": dict.fromkeys(("start", "end"), pa.string()), "strings_can_be_null": True}
        table = csv.read_csv(BytesIO(CSV.encode()), convert_options=csv.ConvertOptions(**texts))
        parquet.write_table(table, tmp_path / "budgets.parquet")
    found = Experiment.load(file_of(tmp_path, f"budgets.{kind}"))
    lines = Experiment.from_dict(experiment("http://x", budgets=LINES))
    assert [one.model_dump() for one in found.all_budgets] == [one.model_dump() for one in lines.all_budgets]
    assert found.accounts() == lines.accounts() and found.budgets == ()
    assert Experiments([found]).accounts() == Experiments([lines]).accounts()
    assert found.all_budgets[0].pacing == Pacing() and found.budgets_of("spring") == list(found.all_budgets[:2])


@pytest.mark.parametrize(
    ("content", "where", "words", "values"),
    [
        (f'{HEAD}\nspring,*,1\nsummer,*,"12,50"', "row 3", messages.CELL, {"value": "'12,50'", "column": "amount"}),
        (f"{HEAD}\nspring,*,-1", "row 2", messages.CELL, {"value": "-1", "expected": "at least 0"}),
        (f"{HEAD}\nspring,*,nan", "row 2", messages.CELL, {"value": "'nan'", "expected": "a finite number"}),
        (f"{HEAD}\n ,*,1", "row 2", messages.CELL, {"value": "' '", "column": "campaign"}),
        (f"{HEAD}\nspring,*", "row 2", messages.CELLS, {"needed": 3}),
        (f"{HEAD},period\na,*,1,day\nb,*,2,week", "row 3: period: 'week' is not one of", None, {}),
        (f"{HEAD},period,opportunities\na,*,1,day,5", "row 2: a budget with period day", None, {}),
        (f"{HEAD},period,price\na,*,1,day,0", "row 2: pacing.price: expected a number above 0", None, {}),
        (f"{HEAD},pacing\na,*,1,yes", "row 2", messages.CELL, {"value": "'yes'", "column": "pacing"}),
        (f"{HEAD},pacing,price\na,*,1,none,2", "row 2", messages.PACING_NONE, {"column": "price"}),
        (f"{HEAD}\na,*,1\nb,*,1\na,*,3", "row 4", messages.BUDGET_TWICE, {"campaign": "a", "other": "row 2"}),
        ("campaign,channel,sum\na,*,1", "budgets.csv", messages.COLUMNS, {"column": "sum", "fault": "unknown"}),
        ("campaign,amount\na,1", "budgets.csv", messages.COLUMNS, {"column": "channel", "fault": "missing"}),
        (f"{HEAD}\n", "budgets.csv", messages.NO_ROWS, {}),
        (b"\xff\xfe", "budgets.csv", messages.NOT_UTF8, {"byte": 0}),
    ],
)
def test_a_wrong_cell_is_named(
    tmp_path: Path, content: str | bytes, where: str, words: Words | None, values: dict[str, Any]
) -> None:
    (tmp_path / "budgets.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ExperimentError) as refused:
        Experiment.load(file_of(tmp_path))
    assert where in str(refused.value)
    if words is not None:
        assert_says(refused.value, words, **values)


def test_an_invalid_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "budgets.parquet").write_bytes(b"PAR1")
    for table, words in (
        ("budgets.parquet", messages.NOT_PARQUET),
        ("absent.csv", messages.TABLE_UNREADABLE),
        ("budgets.xlsx", messages.TABLE_NAME),
    ):
        with raises(ExperimentError, words):
            Experiment.load(file_of(tmp_path, table))
    with raises(ExperimentError, messages.TABLE_FOLDER, name="budgets.csv"):
        Experiment.from_dict(experiment("http://x", budgets=[], budget_table="budgets.csv"))


def test_budgets_are_in_the_file_or_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "budgets.csv").write_text(CSV)
    both: dict[str, Any] = {"budgets": LINES, "budget_table": "budgets.csv"}
    for changes in (both, {"budgets": []}):
        with raises(ExperimentError, messages.NO_BUDGET):
            Experiment.from_dict(experiment("http://x", **changes), tmp_path)
    many = [{"campaign": f"c{number}", "channel": "*", "amount": 1.0} for number in range(51)]
    with raises(ExperimentError, messages.TOO_MANY_BUDGETS, count=51, most=50):
        Experiment.from_dict(experiment("http://x", budgets=many))
    with raises(ExperimentError, messages.BUDGET_CAMPAIGN, campaign="summer") as refused:
        Experiment.load(file_of(tmp_path, campaigns=["spring"]))
    assert "budgets.csv, budget 3: " in str(refused.value)


def test_a_copy_keeps_the_experiment_and_its_budgets(tmp_path: Path) -> None:
    (tmp_path / "budgets.csv").write_text(CSV)
    (state := tmp_path / "state").mkdir()
    found = Experiment.load(file_of(tmp_path))
    (state / "experiment.yaml").write_text(text_with_table(found, state))
    (tmp_path / "budgets.csv").write_text(CSV.replace("200", "3000"))
    kept, edited = Experiment.load(state / "experiment.yaml"), Experiment.load(file_of(tmp_path))
    assert (kept, kept.version) == (found, found.version)
    assert edited != found and edited.version != found.version
    assert edited.budget_table is not None and kept.budget_table is not None and kept.budget_table.name.startswith(".")
    with raises(ExperimentError, messages.TABLE_CHANGED, wanted=kept.budget_table.digest):
        Experiment.load(file_of(tmp_path, f"budgets.csv#{kept.budget_table.digest}"))
    text_with_table(edited, state)
    forget_tables(state, [edited.budget_table])
    assert [file.name for file in state.glob(".*")] == [f".budgets-{edited.budget_table.digest}.csv"]


def test_a_reader_of_the_arms_needs_no_table(tmp_path: Path) -> None:
    found = Experiment.load(file_of(tmp_path, "absent.csv#1234"), UNREAD)
    assert found.all_budgets == () and str(found.budget_table) == "absent.csv#1234"


def test_a_kill_switch_reads_no_table_again(tmp_path: Path, monkeypatch: Any) -> None:
    rows = "".join(f"c{number},*,200,day\n" for number in range(1000))
    (tmp_path / "budgets.csv").write_text(f"{HEAD},period\n{rows}")
    checked = []
    validate = Budget.model_validate
    monkeypatch.setattr(Budget, "model_validate", lambda given: checked.append(given) or validate(given))
    on = Experiment.load(file_of(tmp_path))
    assert len(checked) == 1 and len(on.all_budgets) == 1000, "only one row of each kind is validated by the model"
    monkeypatch.setattr(BudgetTable, "__init__", None)
    off = Experiment.load(file_of(tmp_path, enabled=False))
    assert off == on.replace(enabled=False) and off.all_budgets is on.all_budgets
