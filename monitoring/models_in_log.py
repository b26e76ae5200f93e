"""The models that took the decisions of a log: their artifacts are needed to judge these decisions.

for digest, reason, serves in uses_in_log("decision_log"): ...
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

from monitoring.decision_log import DecisionLog, database, open_records
from mtorl.log.records import Kind, each_record

_SILENT = timedelta(days=1)  # an arm that has not decided for so long, while others did, serves nobody any more

_POLICY = {  # SQL: whether a record says which policy an arm has: a model that did not answer leaves no digest either
    "decision": "model_digest IS NOT NULL OR fallback_reason IS NULL",
    "shadow": "model_digest IS NOT NULL",
}


def uses_in_log(folder: str) -> list[tuple[str, str, bool]]:
    """Models of all kept decisions, shadow decisions included, the newest first: digest, reason, whether it serves.

    A model serves if no other policy has decided for that arm since. A folder without a decision log has no models.

    Raises:
        LogError: A file was removed while it was read.
    """
    last = _last_decisions(folder) if folder else {}
    newest: dict[tuple[str, str], datetime] = {}
    for (experiment, arm, _), at in last.items():
        newest[experiment, arm] = max(newest.get((experiment, arm), at), at)
    end = max(last.values(), default=None)
    uses = []
    for (experiment, arm, digest), at in sorted(last.items(), key=lambda item: item[1], reverse=True):
        serves = at == newest[experiment, arm] and end is not None and end - at <= _SILENT
        if digest is not None:
            words = "decides" if serves else "decided"
            uses.append((digest, f"{words} as {arm} of {experiment}, last {at:%Y-%m-%d %H:%M}", serves))
    return uses


def _last_decisions(folder: str) -> dict[tuple[str, str, str | None], datetime]:
    """When each model last decided, by experiment, arm and digest (None: a policy without one)."""
    log = DecisionLog.in_folder(folder)
    files = {"decision": log.decisions, "shadow": log.shadows}
    found: dict[tuple[str, str, str | None], datetime] = {}
    with database() as db:
        for kind in get_args(Kind):
            if not files.get(kind):
                continue
            open_records(db, kind, files[kind]).create_view(f"{kind}_log")
            rows = db.execute(
                f"""SELECT experiment, arm, model_digest, max(CAST(event_time AS TIMESTAMPTZ))
                FROM ({each_record(kind, f"{kind}_log")}) WHERE {_POLICY[kind]} GROUP BY ALL"""
            ).fetchall()
            for experiment, arm, digest, at in rows:
                at = at.astimezone(UTC)
                found[experiment, arm, digest] = max(found.get((experiment, arm, digest), at), at)
    return found
