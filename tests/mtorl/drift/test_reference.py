"""Tests of samples from a log, which draw touchpoints equally and keep users complete."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from mtorl.drift.reference import sample_users, stretches

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def users_of(lengths: list[int], prefix: str = "u") -> pd.Series:
    return pd.Series(np.repeat([f"{prefix}{i}" for i in range(len(lengths))], lengths))


@given(lengths=LENGTHS, share=st.floats(0.01, 1.0))
def test_a_stretch_is_one_contiguous_share_of_a_circular_journey(lengths: list[int], share: float) -> None:
    users = users_of(lengths)
    drawn = stretches(users, share)
    for _, row in pd.Series(drawn).groupby(users.to_numpy()):
        kept, n = row.to_numpy(), len(row)
        assert abs(kept.sum() - share * n) < 1
        ends = (kept != np.roll(kept, 1)).sum()
        assert ends == (0 if kept.all() or not kept.any() else 2)


def test_every_position_of_a_journey_is_equally_likely() -> None:
    length, share, users = 12, 0.3, 6_000
    drawn = stretches(users_of([length] * users), share).reshape(users, length).mean(axis=0)
    assert np.abs(drawn - share).max() < 5 * np.sqrt(share * (1 - share) / users)


def test_users_keep_their_weight_and_draws_are_repeatable() -> None:
    users = users_of([2] * 3_000 + [20] * 1_000)
    drawn = stretches(users, 0.25)
    heavy = (users.groupby(users).transform("size") == 20).to_numpy()
    assert abs(drawn[heavy].sum() / drawn.sum() - heavy.mean()) < 0.02
    first = users[users.isin([f"u{i}" for i in range(500)])]
    assert (stretches(first, 0.25) == drawn[first.index]).all(), "a user's stretch does not depend on other users"


@given(lengths=LENGTHS, rows=st.integers(1, 300), cut=st.integers(0, 30))
def test_a_sample_has_whole_users_up_to_a_number_of_rows(lengths: list[int], rows: int, cut: int) -> None:
    frame = pd.DataFrame({"user_id": users_of(lengths)})
    kept = sample_users(frame, rows)
    assert min(rows, len(frame)) <= len(kept) < rows + max(lengths)
    assert len(kept) == frame["user_id"].isin(kept["user_id"].unique()).sum()
    shuffled = frame.sample(frac=1, random_state=1)
    assert sample_users(shuffled, rows).index.sort_values().equals(kept.index)
    # Sampling each shard first must give the same rows as sampling the whole log.
    first = frame["user_id"].isin([f"u{i}" for i in range(cut)])
    parts = pd.concat([sample_users(frame[first], rows), frame[~first]])
    assert sample_users(parts, rows).index.sort_values().equals(kept.index)
