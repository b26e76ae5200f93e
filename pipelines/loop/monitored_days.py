"""Runs the monitor on the traffic of a run: first on two normal days, then on two days with a shifted context.

The monitor judges whole days, but a run takes minutes. So the decisions are copied with new dates.
"""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from monitoring.decision_log import DecisionLog
from monitoring.watch.check import UPLOADED_AFTER, Watched, folder_of
from monitoring.watch.check import run as check
from monitoring.watch.state import Group, NotJudged, State
from monitoring.watch.stream_names import COLUMNS, labels_of
from monitoring.watch.training_sample import sample_of_artifact
from mtorl.log.decision_ids import BUCKET, HOUR, TIME
from mtorl.log.lake import Lake, name_of
from mtorl.log.records import Kind, sql_columns
from mtorl.runtime.files import remove
from pipelines.loop.config import DAYS_EACH
from pipelines.loop.online import Served, Trained
from pipelines.loop.run_folder import LAKE
from pipelines.loop.traffic import Traffic

STATE_FOLDER = "monitor"
"""Name of the folder, in a run's folder, with the state of the monitor."""
_DAY = timedelta(days=1)


def check_days(trained: Trained, served: Served) -> dict[str, State]:
    """Run the monitor on the normal traffic, then on the shifted traffic, and return both states."""
    folder, artifact = trained.folder / STATE_FOLDER, trained.folder / "artifacts" / "challenger"
    # An interrupted run may have left this folder.
    remove(folder)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first_day = midnight - 2 * DAYS_EACH * _DAY
    with tempfile.TemporaryDirectory(dir=trained.folder) as log:
        dated = Lake.open(log)
        date_records(Lake.open(trained.folder / LAKE), served.clean, served.shifted, first_day, dated)
        watched = Watched(dated, trained.spec, sample_of_artifact(lambda _: artifact))
        return {
            name: check(watched, folder, first_day + days * _DAY + UPLOADED_AFTER)
            for name, days in (("clean", DAYS_EACH), ("shifted", 2 * DAYS_EACH))
        }


def date_records(lake: Lake, clean: Traffic, shifted: Traffic, first_day: datetime, dated: Lake) -> None:
    """Copy the decisions and outcomes of all traffic to another lake, on consecutive days from `first_day` (UTC)."""
    # The monitor also reads the hour after midnight, so the traffic of each day begins at noon.
    noon = timedelta(hours=12)
    kinds: tuple[Kind, ...] = ("decision", "outcome")
    with DecisionLog.of(lake).opened("outcome") as db, tempfile.TemporaryDirectory() as scratch:
        db.execute("CREATE TABLE moved (decision_id VARCHAR, moved_by INTERVAL)")
        for traffic, day, nth_day in (
            (clean, first_day, "dense_rank() OVER (ORDER BY user_id)"),
            (shifted, first_day + DAYS_EACH * _DAY, "row_number() OVER (PARTITION BY user_id ORDER BY event_time) - 1"),
        ):
            db.execute(
                f"""INSERT INTO moved SELECT decision_id, $moved_by + to_days(CAST(({nth_day}) % {DAYS_EACH} AS INT))
                FROM decision_log WHERE {TIME} BETWEEN $since AND $until""",
                {"since": traffic.since, "until": traffic.until, "moved_by": day + noon - traffic.since},
            )
        for kind in kinds:
            columns = ", ".join(sql_columns(kind))
            db.execute(
                f"""CREATE TABLE {kind} AS
                WITH made AS (SELECT *, format('{{:012x}}', epoch_ms({TIME} + moved_by)) AS ms
                              FROM {kind}_log JOIN moved USING (decision_id)),
                     record AS (SELECT * REPLACE (event_time + moved_by AS event_time,
                                                  left(ms, 8) || '-' || right(ms, 4) || substr(decision_id, 14)
                                                  AS decision_id) FROM made)
                SELECT {columns}, {HOUR} AS hour, {BUCKET} AS bucket FROM record"""
            )
            ((newest,),) = db.execute(f"SELECT max(hour) FROM {kind}").fetchall()
            db.table(kind).write_parquet(str(file := Path(scratch, kind)))
            dated.put(file, name_of(kind, newest or first_day, "dated", arrived=True))


def figures_of(run: Path, state: State) -> dict[str, Any]:
    """Convert the monitor's state to figures for summary.json."""
    why = NotJudged(reason="no_decisions", text="no decision was taken")
    group = state.groups.get(COLUMNS, Group(end=state.checked, not_judged=why))
    assert group.end is not None
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
