"""A user leaves the online store, on SQLite and on Redis; others stay, and the same user may come back."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from features.online.history import HistoryError
from features.online.open_history import forget_online
from tests.features.online_histories import OnlineStore, append, equal_lists, touchpoint


def test_one_leaves_and_the_others_stay(store: OnlineStore, user_ids: Iterator[str]) -> None:
    gone, stays, never = next(user_ids), next(user_ids), next(user_ids)
    for user in (gone, stays):
        append(store.history, user, touchpoint(1))
    before = store.read(stays)
    assert forget_online(store.repo, {gone, never}) == 1
    assert forget_online(store.repo, {gone, never}) == 0
    assert store.read(gone) is None and equal_lists(store.read(stays), before)
    assert append(store.history, gone, touchpoint(2))


def test_what_is_deleted_is_in_no_file_of_the_store(store: OnlineStore, user: str) -> None:
    """SQLite leaves deleted rows in its file unless it is told not to; Redis has none here."""
    name = f"{user} by name"
    append(store.history, name, touchpoint(1))
    forget_online(store.repo, {name})
    files = [path for path in store.repo.rglob("*") if path.is_file()]
    assert files and all(name.encode() not in path.read_bytes() for path in files)


def test_a_store_that_does_not_answer_or_is_of_another_kind_is_named(store: OnlineStore, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    shutil.copy(store.repo / "feature_store.yaml", repo)
    settings = repo / "feature_store.yaml"
    if store.kind == "redis":
        settings.write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", settings.read_text()))
        with pytest.raises(HistoryError, match=r"127\.0\.0\.1:1: "):
            forget_online(repo, {"u"})
    else:
        (repo / "online.db").write_text("no database, but long enough to be taken for one" * 10)
        with pytest.raises(HistoryError, match=r"online\.db: file is not a database"):
            forget_online(repo, {"u"})
