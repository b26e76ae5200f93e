"""The monitor's checks of a run: two days of live traffic, then two days in a shifted context.

    found = check_days(trained, served)
    found["clean"].word, found["shifted"].retrain        # "fine", and what the monitor asks for after the shift

The monitor judges past days, and a run takes minutes. So the run's decisions get other dates: half of the users of the
live traffic come on each of two days, and each user's two shifted opportunities are a day apart. All else in the
records stays as the router wrote it. The state is kept for `mtorl monitor status`.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from monitoring.decision_log import database
from monitoring.verdict.hourly_sums import sql_text
from monitoring.watch.check import EXPORTED_AFTER, Watched, folder_of
from monitoring.watch.check import run as check
from monitoring.watch.state import Group, NotJudged, State
from monitoring.watch.streams import COLUMNS, labels_of
from monitoring.watch.training_sample import sample_of_artifact
from mtorl.runtime.files import remove
from pipelines.loop.config import DAYS_EACH
from pipelines.loop.online import Served, Trained
from pipelines.loop.traffic import Traffic

STATE_FOLDER = "monitor"
"""In a run's folder."""
_DAY = timedelta(days=1)


def check_days(trained: Trained, served: Served) -> dict[str, State]:
    """Let the monitor check the live traffic, then the shifted traffic; returns its state after each, by traffic."""
    folder, artifact = trained.folder / STATE_FOLDER, trained.folder / "artifacts" / "challenger"
    remove(folder)  # of a run that was interrupted here
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first_day = midnight - 2 * DAYS_EACH * _DAY
    with tempfile.TemporaryDirectory(dir=trained.folder) as log:
        date_records(trained.folder / "decision_log", served.clean, served.shifted, first_day, Path(log))
        watched = Watched(Path(log), trained.spec, sample_of_artifact(lambda _: artifact))
        return {
            name: check(watched, folder, first_day + days * _DAY + EXPORTED_AFTER)
            for name, days in (("clean", DAYS_EACH), ("shifted", 2 * DAYS_EACH))
        }


def date_records(log: Path, clean: Traffic, shifted: Traffic, first_day: datetime, dated: Path) -> None:
    """Copy the decisions of both traffics, and their outcomes, from `log` to `dated`, with other dates.

    They become those of the days from `first_day`, a midnight in UTC, on.
    """
    noon = timedelta(hours=12)  # the last hours of each day are looked at until an hour after its end
    with database() as db:
        db.from_parquet(str(log / "decisions.parquet")).create_view("decisions")
        db.from_parquet(str(log / "outcomes.parquet")).create_view("outcomes")
        # A decision may have two records, the second of which withdraws it.
        db.execute(
            """CREATE TABLE taken AS SELECT decision_id, any_value(user_id) AS user_id,
                min(CAST(event_time AS TIMESTAMPTZ)) AS taken_at FROM decisions GROUP BY decision_id"""
        )
        db.execute("CREATE TABLE moved (decision_id VARCHAR, moved_by INTERVAL)")
        for traffic, day, nth_day in (
            (clean, first_day, "dense_rank() OVER (ORDER BY user_id)"),
            (shifted, first_day + DAYS_EACH * _DAY, "row_number() OVER (PARTITION BY user_id ORDER BY taken_at) - 1"),
        ):
            db.execute(
                f"""INSERT INTO moved SELECT decision_id, $moved_by + to_days(CAST(({nth_day}) % {DAYS_EACH} AS INT))
                FROM taken WHERE taken_at BETWEEN $since AND $until""",
                {"since": traffic.since, "until": traffic.until, "moved_by": day + noon - traffic.since},
            )
        moved = "strftime(CAST(event_time AS TIMESTAMPTZ) + moved_by, '%Y-%m-%dT%H:%M:%S.%f+00:00')"
        for records in ("decisions", "outcomes"):
            db.execute(
                f"""COPY (SELECT {records}.* REPLACE ({moved} AS event_time)
                FROM {records} JOIN moved USING (decision_id)) TO {sql_text(f"{dated / records}.parquet")}"""
            )


def figures_of(run: Path, state: State) -> dict[str, Any]:
    """A state in figures for summary.json, with the pages by Evidently of its newest days."""
    why = NotJudged(reason="no_decisions", text="no decision was taken")  # by then: no day is over in the log
    group = state.groups.get(COLUMNS, Group(end=state.checked, not_judged=why))
    assert group.end is not None  # also of a day that could not be judged
    ends = [group.end - before * _DAY for before in reversed(range(DAYS_EACH))]
    pages = [page for end in ends for page in sorted(folder_of(run / STATE_FOLDER, end).rglob("drift.html"))]
    return {
        "word": state.word if COLUMNS in state.groups else "not judged",
        "until": group.end.isoformat(),
        "decisions": group.decisions,
        "users": group.users,
        "not_judged": group.not_judged.text if group.not_judged else None,
        "columns": [
            {"column": labels_of(name).measure, "score": stream.value, "threshold": stream.expected}
            for name, stream in state.streams.items()
            if labels_of(name).group == COLUMNS
        ],
        "alarms": [{"stream": name, **alarm.model_dump(mode="json")} for name, alarm in state.alarms().items()],
        "retrain": state.retrain.reason if state.retrain else None,
        "pages": [str(page.relative_to(run)) for page in pages],
    }
