"""Tests that a log of valid rows is refused if a whole column is useless for learning."""

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


def test_a_log_without_costs_is_refused_by_the_columns_name(tmp_path: Path) -> None:
    rows().assign(cost="0").rename(columns={"cost": "net price"}).to_csv(tmp_path / "log.csv", index=False)
    spec = SPEC.replace(columns={"cost": {"column": "net price"}})
    with raises(LogError, NO_COST, column="net price"):
        ingest_log(tmp_path / "log.csv", spec, tmp_path / "log.parquet", tmp_path / "faulty.csv")
    assert not (tmp_path / "log.parquet").exists()


ROWS = 2000


def exposures(**columns: Any) -> pd.DataFrame:
    """Return a log with 10 % clicks, a quarter of which led to a purchase."""
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


def described(**kinds: str) -> DatasetSpec:
    """Describe context columns of these kinds, with other names in the file."""
    further = [{"name": name, "kind": kind, "missing": "unknown"} for name, kind in kinds.items()]
    shop = {"name": "mine", "channels": ["search", "social"], "propensity": "channel-frequency"}
    columns = {"columns": {name: f"{name}, raw" for name in kinds}}
    return DatasetSpec.from_dict(shop | columns | {"context": [{"name": "hour", "kind": "numeric"}, *further]})


LEAKS = {
    "click": ("numeric", lambda random, click, amount: click),
    "falls_with_it": ("numeric", lambda random, click, amount: 5 - click + random.random(ROWS) / 2),
    "word": ("categorical", lambda random, click, amount: np.where(click == 1, "ja", "nein")),
    "id": ("categorical", lambda random, click, amount: [f"o{i}" if c else "" for i, c in enumerate(click)]),
    "amount": ("numeric", lambda random, click, amount: amount * 1.19),
    "less_a_fee": ("numeric", lambda random, click, amount: np.where(amount > 0, amount * 3, 0) - 7),
    "flag": ("categorical", lambda random, click, amount: (amount > 0).astype(int)),
    "both_ends": ("numeric", lambda r, click, _: r.random(ROWS) + np.where(click, r.choice([0, 9], ROWS), 5)),
}
HINTS = {
    "much_but_not_all": ("numeric", lambda random, click, amount: click + 2 * random.random(ROWS)),
    "fits_the_rows_it_has": ("categorical", lambda random, click, amount: [f"{i % 900}" for i in range(ROWS)]),
    "too_few_to_tell": ("numeric", lambda random, click, amount: np.where(np.arange(ROWS) < 15, click, 0)),
}


def test_columns_that_determine_an_outcome_are_refused_by_name_and_others_may_be_context(tmp_path: Path) -> None:
    path, columns = tmp_path / "log.csv", {f"told_{name}": column for name, column in (HINTS | LEAKS).items()}
    exposures(**{f"{name}, raw": make for name, (_, make) in columns.items()}).to_csv(path, index=False)
    kinds = {name: kind for name, (kind, _) in columns.items()}
    with pytest.raises(LogError) as caught:
        validate_log(path, described(**kinds))
    assert_says(caught.value, messages.LEAKS)
    assert [leak["column"] for leak in caught.value.args[0].values["leaks"]] == [f"told_{name}, raw" for name in LEAKS]
    assert validate_log(path, described(**{f"told_{name}": kind for name, (kind, _) in HINTS.items()})).rows == ROWS


def test_a_scaled_amount_in_every_row_is_refused(tmp_path: Path) -> None:
    path, profit = tmp_path / "log.csv", np.random.default_rng(2).normal(9, 1, ROWS)
    exposures(revenue=lambda *_: profit, **{"told, raw": lambda *_: 7 - 3 * profit}).to_csv(path, index=False)
    with raises(LogError, messages.LEAKS, leaks=[Leak("told, raw", "revenue", "equal after scaling")]):
        validate_log(path, described(told="numeric"))


def test_a_decimal_number_as_a_category_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    exposures(**{"told, raw": lambda random, *_: random.random(ROWS)}).to_csv(path, index=False)
    (warning,) = validate_log(path, described(told="categorical")).warnings
    assert_says(warning, messages.DECIMAL_CATEGORIES, columns=["told, raw"])
    assert validate_log(path, described(told="numeric")).warnings == ()
