import numpy as np
import pandas as pd

from mtorl.log.splits import folds_of, split_of, unit_order


def test_golden_splits_never_change():
    # The splits never change, so that a retraining cannot test on earlier training users.
    users = [f"u{i:06d}" for i in range(12)]
    assert "".join(part[0] if part != "test" else "T" for part in split_of(users)) == "vtTttttttttt"


def test_shares_are_about_70_10_20_and_whole_users():
    users = pd.Series([f"user-{i}" for i in range(20_000)])
    share = pd.Series(split_of(users)).value_counts(normalize=True)
    for part, wanted in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert abs(share[part] - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 20_000)
    twice = split_of(pd.concat([users, users]))
    assert (twice[:20_000] == twice[20_000:]).all()


def test_folds_are_even_and_independent_of_the_split():
    users = pd.Series([f"user-{i}" for i in range(20_000)])
    fold, split = folds_of(users, 10), split_of(users)
    assert set(fold) == set(range(10))
    share = np.bincount(fold) / len(users)
    assert (abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 20_000)).all()
    in_test = np.bincount(fold[split == "test"], minlength=10) / np.bincount(fold)
    assert (abs(in_test - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 2000)).all()
    assert (folds_of(users[::-1], 10)[::-1] == fold).all()


def test_unit_order_depends_on_the_seed_only():
    users = [f"u{i}" for i in range(50)]
    assert unit_order(users, 1) == unit_order(users[::-1], 1)
    assert sorted(unit_order(users, 1)) == sorted(users)
    assert unit_order(users, 1) != unit_order(users, 2)
