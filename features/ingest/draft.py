"""Drafts a description of a log: what its columns seem to be, by name and by content.

    draft = draft_description(Path("log.csv"), named={"channel": "slot"})
    Path("log.yaml").write_text(draft.text)            # a description, with questions and notes in its comments

The name of a column counts only if its values fit. An unlikely guess is a question: no command reads the description
until a person has answered it. A column that determines an outcome is no context.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import ibis
import yaml

from features.engine import open_engine
from features.ingest import contract
from features.ingest.adapters import files, values
from features.ingest.draft_text import Profile, Writer
from features.ingest.findings import leaks
from features.ingest.ingest import adapter_of, looks_like
from features.ingest.object_store import SCHEME, at_hand
from features.ingest.profile import roles
from features.ingest.profile.dialect import separator_of
from features.ingest.profile.facts import Look
from features.ingest.profile.second_file import look_at
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError
from mtorl.runtime.files import naming_full_disk

MOST_ROWS = 1_000_000  # that are looked at


@dataclass(frozen=True)
class Draft:
    """A description, and the `spec` that it gives once its questions are answered with yes."""

    text: str  # YAML
    spec: DatasetSpec
    checks: tuple[str, ...]  # its comments CHECK
    notes: tuple[str, ...]  # its comments NOTE
    rows: int  # of the file, that were looked at


def draft_description(
    path: str | Path, named: Mapping[str, str] | None = None, conversions: str | Path = "", told: str = ""
) -> Draft:
    """Describe a log: a file or folder, or its address, as `mtorl data validate` reads it.

    `named` are columns of the log whose names in the file a person knows. The description calls the second file, with
    `conversions`, `told`: a path relative to where it is written, or an address. A log of a built-in data set, or
    without a visible user, time or channel, is a LogError.
    """
    with (
        open_engine("duckdb") as engine,
        tempfile.TemporaryDirectory(prefix="mtorl-draft-") as scratch,
        naming_full_disk(Path(scratch)),
        at_hand(path, Path(scratch) / "copy") as here,
    ):
        parts = files.parts(here)
        known = looks_like(files.columns_of(here, parts, separator_of(parts[0])))
        if known and not named:
            raise LogError(
                f"{here}: this is a log of data set {known!r}, which needs no description: --dataset {known}"
            )
        look = Look.into(engine, here, Path(scratch), MOST_ROWS)
        table, facts = look.table, look.facts
        found = roles.roles_of(here, facts, look.rows, named or {}, lambda column: _mean_inverse(table, column))
        user = found.columns["user_id"]
        rest = [fact for column, fact in facts.items() if column not in found.columns.values()]
        fixed = _same_for_each_user(table, user, [fact.name for fact in rest])
        second = None
        if conversions:
            ids = [fact.name for fact in rest if fact.present == fact.distinct == look.rows]
            with at_hand(conversions, Path(scratch) / "second") as there:
                second = look_at(engine, there, table, ids, user, Path(scratch))
        elif not any(fact.outcome and roles.known_afterwards(fact) for fact in rest):
            roles.choose_outcome(facts, found, fixed)

        channels = _counts_of(table, found.columns["channel"])
        profile = Profile(file_stem(path), look, found, channels, second, told or str(conversions), fixed)
        draft = _written(profile, {})
        read = contract.read(adapter_of(draft.spec).adapt(table, draft.spec), draft.spec)
        outcomes = {leak.column: leak.outcome for leak in leaks(read, draft.spec)}
        return _written(profile, outcomes) if outcomes else draft


def file_stem(path: str | Path) -> str:
    """Name of a file or folder without its endings, or of a table; of a path or an address."""
    name = PurePosixPath(str(path)).name
    return name.rpartition(".")[2] if str(path).startswith(SCHEME) else name.split(".")[0]


def _written(profile: Profile, outcomes: Mapping[str, str]) -> Draft:
    """The draft, in which columns that determine an outcome (`outcomes`, by column) are no context."""
    writer = Writer(profile)
    text = writer.text(outcomes)
    spec = DatasetSpec.from_dict(yaml.safe_load(text))
    return Draft(text, spec, tuple(writer.checks), tuple(writer.notes), profile.look.rows)


def _mean_inverse(table: ibis.Table, column: str) -> float:
    mean = (1 / values.number(table[column])).mean()
    return float(table.agg(mean=mean).to_pyarrow().to_pylist()[0]["mean"])


def _counts_of(table: ibis.Table, name: str) -> dict[str, int]:
    """How many rows have each value of a column, by value; the most frequent ones of very many."""
    found = table.select(value=values.text(table[name]).strip()).filter(ibis._["value"].notnull())
    counted = found.group_by("value").agg(rows=ibis._.count()).order_by(ibis.desc("rows"), "value").limit(1000)
    return {str(row["value"]): int(row["rows"]) for row in counted.to_pyarrow().sort_by("value").to_pylist()}


def _same_for_each_user(table: ibis.Table, user: str, names: Sequence[str]) -> set[str]:
    """Columns with one value for each user, as far as users come more than once."""
    if not names:
        return set()
    figures = {f"n{i}": values.text(table[name]).nunique() for i, name in enumerate(names)}
    users = table.group_by(user).agg(rows=table.count(), **figures).filter(ibis._["rows"] > 1)
    most = users.agg(users=users.count(), **{f"n{i}": users[f"n{i}"].max() for i in range(len(names))})
    found = most.to_pyarrow().to_pylist()[0]
    return {name for i, name in enumerate(names) if found["users"] and (found[f"n{i}"] or 0) <= 1}
