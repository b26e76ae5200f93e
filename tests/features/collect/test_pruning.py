"""Tests of the choice of exposures for a training if the log has too many.

All exposures of each arm's newest model are used. Of the older exposures, those that tell little about other channels
are left out first.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.collect.pruning import LOG, Touchpoints, kept_shares
from features.collect.training_log import add_decisions, bound_touchpoints
from mtorl.log.touchpoints import INGEST_FILE, LOG_FILE, fingerprint
from mtorl.log.trainings import LogFacts
from tests.features.collect.decision_logs import decision, outcome, write
from tests.features.collect.test_rules import data_folder

GENERATIONS = st.lists(
    st.builds(
        Touchpoints,
        arm=st.sampled_from([LOG, "a", "b"]),
        generation=st.text("xyz", min_size=1, max_size=3),
        rows=st.integers(1, 1000),
        width=st.floats(0.01, 1.0),
        newest=st.floats(0, 1e9),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda one: (one.arm, one.generation),
)


@given(generations=GENERATIONS, most=st.integers(1, 4000))
def test_the_bound_is_filled_and_never_exceeded(generations: list[Touchpoints], most: int) -> None:
    shares = kept_shares(generations, most)
    rows = [shares[one.arm, one.generation] * one.rows for one in generations]
    total = sum(one.rows for one in generations)
    assert all(0 <= share <= 1 for share in shares.values())
    assert abs(sum(rows) - min(most, total)) <= len(generations)  # rounding
    assert sum(0 < share < 1 for share in shares.values()) <= 1, "at most one generation is kept in part"


@given(generations=GENERATIONS, most=st.integers(1, 4000))
def test_wider_old_generations_stay_longer(generations: list[Touchpoints], most: int) -> None:
    shares = kept_shares(generations, most)
    newest = {
        arm: max((one for one in generations if one.arm == arm), key=lambda one: (one.newest, one.generation))
        for arm in ("a", "b")
        if any(one.arm == arm for one in generations)
    }
    old = [one for one in generations if one not in newest.values()]
    for one in old:
        for other in old:
            if one.width > other.width:
                assert shares[one.arm, one.generation] >= shares[other.arm, other.generation]
    if any(shares[one.arm, one.generation] > 0 for one in old):
        assert all(shares[one.arm, one.generation] == 1 for one in newest.values() if one.arm != LOG)


def test_a_log_without_decisions_is_bounded_and_counts_as_complete(tmp_path: Path) -> None:
    users = [f"u{i // 3:04d}" for i in range(3000)]
    at = pd.Timestamp("2026-01-01", tz="UTC").as_unit("us") + pd.to_timedelta(np.arange(3000), unit="min")
    whole, folder = (data_folder(tmp_path / name, 3000, user_id=users, timestamp=at) for name in ("whole", "data"))
    assert bound_touchpoints(folder, 0) == bound_touchpoints(folder, 3000) == "3,000 touchpoints"
    assert (folder / INGEST_FILE).read_bytes() == (whole / INGEST_FILE).read_bytes()
    assert bound_touchpoints(folder, 1000) != "3,000 touchpoints"
    log, noted = pd.read_parquet(folder / LOG_FILE), json.loads((folder / INGEST_FILE).read_text())
    assert noted["rows"] == len(log) == pytest.approx(1000, abs=120) and noted["users"] == log["user_id"].nunique()
    assert noted["fingerprint"] == fingerprint(log)
    everything = pd.read_parquet(whole / LOG_FILE)
    left = everything[everything["user_id"].isin(log["user_id"])]
    pd.testing.assert_frame_equal(left.reset_index(drop=True), log, check_dtype=False)
    facts, before = LogFacts.of(folder), LogFacts.of(whole)
    assert facts.days == before.days and not facts.lost_since(before)
    assert facts.share == pytest.approx(len(log) / 3000) and before.share == 1.0


def test_a_wide_log_stays_and_old_narrow_decisions_go(tmp_path: Path) -> None:
    narrow = {"channel_probs": {"search": 0.01, "social": 0.01, "display": 0.01, "video": 0.97}, "propensity": 0.97}
    decisions, outcomes = [], []
    for generation in range(3):
        for i in range(200):
            name = f"g{generation}-{i}"
            user = {"user_id": name, "model_digest": f"model-{generation}"}
            decisions.append(decision(name, 100 * generation + i / 10, **narrow, **user))
            outcomes.append(outcome(f"{name}-cost", name, minutes=100 * generation + i / 10))
    write(tmp_path / "lake", decisions, outcomes)

    whole = data_folder(tmp_path / "whole", rows=300)

    def pruned(most: int) -> dict[str, int]:
        folder = data_folder(tmp_path / f"data-{most}", rows=300)
        found = add_decisions(tmp_path / "lake", folder, most_touchpoints=most)
        log = pd.read_parquet(folder / LOG_FILE)
        assert found.pruned == 900 - len(log)
        noted = json.loads((folder / INGEST_FILE).read_text())
        assert noted["rows"] == len(log) and LogFacts.of(folder).share == pytest.approx(len(log) / 900)
        assert LogFacts.of(folder).days == LogFacts.of(whole).days, "pruning looks like a loss to the next training"
        return log["user_id"].str[:2].value_counts().to_dict()

    assert pruned(900) == {"ol": 300, "g0": 200, "g1": 200, "g2": 200} == pruned(0)
    some = pruned(700)
    assert (some["ol"], some["g1"], some["g2"], some.get("g0", 0)) == (300, 200, 200, 0)
    few = pruned(350)
    assert few["g2"] == 200 and "g0" not in few and "g1" not in few
    assert np.isclose(few["ol"], 150, atol=30), "a generation kept in part is thinned by a hash of users"
