"""Faults of whole columns: every row is good, and no policy can learn from the log."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features import messages
from features.ingest.findings import Leak
from features.ingest.ingest import ingest_log, validate_log
from mtorl.log.dataset import DatasetSpec
from mtorl.log.messages import NO_COST
from mtorl.log.touchpoints import LogError
from tests.features.shop_log import SPEC, rows
from tests.messages import assert_says, raises


def test_a_log_in_which_nothing_costs_anything_is_refused_by_the_columns_name(tmp_path: Path) -> None:
    rows().assign(cost="0").rename(columns={"cost": "net price"}).to_csv(tmp_path / "log.csv", index=False)
    spec = SPEC.replace(columns={"cost": {"column": "net price"}})
    with raises(LogError, NO_COST, column="net price"):
        ingest_log(tmp_path / "log.csv", spec, tmp_path / "log.parquet", tmp_path / "faulty.csv")
    assert not (tmp_path / "log.parquet").exists()


# ---- a context column that tells the outcome

ROWS = 2000


def exposures(**columns: Any) -> pd.DataFrame:
    """Rows of a log of which a tenth was clicked, and a tenth of these bought."""
    random = np.random.default_rng(11)
    click = (np.arange(ROWS) % 10 == 0).astype(int)
    amount = np.where(np.arange(ROWS) % 40 == 0, random.random(ROWS).round(2) + 0.01, 0.0)
    log = {
        "user_id": [f"u{i % 300}" for i in range(ROWS)],
        "timestamp": pd.date_range("2024-05-01", periods=ROWS, freq="min").strftime("%Y-%m-%dT%H:%M:%SZ"),
        "campaign_id": "spring",
        "channel": random.choice(["search", "social"], ROWS),
        "cost": random.random(ROWS).round(3),
        "click": click,
        "conversion": 0,
        "revenue": amount,
        "hour": random.integers(0, 24, ROWS),
    }
    given = {name: make(random, click, amount) for name, make in columns.items()}
    return pd.DataFrame({**log, **given})


def described(kind: str) -> DatasetSpec:
    return DatasetSpec.from_dict(
        {
            "name": "mine",
            "channels": ["search", "social"],
            "propensity": "channel-frequency",
            "columns": {"told": "Told, raw"},
            "context": [{"name": "hour", "kind": "numeric"}, {"name": "told", "kind": kind, "missing": "unknown"}],
        }
    )


LEAKS = {
    "the click": ("numeric", lambda random, click, amount: click),
    "falls with it": ("numeric", lambda random, click, amount: 5 - click + random.random(ROWS) / 2),
    "a word": ("categorical", lambda random, click, amount: np.where(click == 1, "ja", "nein")),
    "an id": ("categorical", lambda random, click, amount: [f"o{i}" if c else "" for i, c in enumerate(click)]),
    "an amount": ("numeric", lambda random, click, amount: amount * 1.19),
    "less a fee": ("numeric", lambda random, click, amount: np.where(amount > 0, amount * 3, 0) - 7),
    "a flag": ("categorical", lambda random, click, amount: (amount > 0).astype(int)),
    "both ends": (
        "numeric",
        lambda random, click, _: random.random(ROWS) + np.where(click, random.choice([0, 9], ROWS), 5),
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_column_that_determines_an_outcome_is_refused_by_name(leak: str, tmp_path: Path) -> None:
    kind, make = LEAKS[leak]
    path = tmp_path / "log.csv"
    exposures(**{"Told, raw": make}).to_csv(path, index=False)
    with pytest.raises(LogError) as caught:
        validate_log(path, described(kind))
    assert_says(caught.value, messages.LEAKS)
    assert [leak["column"] for leak in caught.value.args[0].values["leaks"]] == ["Told, raw"]


def test_a_scaled_amount_is_refused_where_every_row_has_one(tmp_path: Path) -> None:
    path, profit = tmp_path / "log.csv", np.random.default_rng(2).normal(9, 1, ROWS)
    exposures(revenue=lambda *_: profit, **{"Told, raw": lambda *_: 7 - 3 * profit}).to_csv(path, index=False)
    with raises(LogError, messages.LEAKS, leaks=[Leak("Told, raw", "revenue", "equal after scaling")]):
        validate_log(path, described("numeric"))


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("numeric", lambda random, click, amount: click + 2 * random.random(ROWS)),  # tells much, but not all
        ("categorical", lambda random, click, amount: [f"{i % 900}" for i in range(ROWS)]),  # fits the rows it has
        ("numeric", lambda random, click, amount: np.where(np.arange(ROWS) < 15, click, 0)),  # too few to tell
    ],
)
def test_a_column_that_tells_something_may_be_context(kind: str, make: Any, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    exposures(**{"Told, raw": make}).to_csv(path, index=False)
    assert validate_log(path, described(kind)).rows == ROWS


def test_a_decimal_number_as_a_category_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    exposures(**{"Told, raw": lambda random, *_: random.random(ROWS)}).to_csv(path, index=False)
    (warning,) = validate_log(path, described("categorical")).warnings
    assert_says(warning, messages.DECIMAL_CATEGORIES, columns=["Told, raw"])
    assert validate_log(path, described("numeric")).warnings == ()
