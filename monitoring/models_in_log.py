"""Lists the models whose decisions are in a log, so that their artifacts are kept for verdicts."""

from datetime import UTC, datetime, timedelta

from monitoring.decision_log import DecisionLog

# A model no longer serves if its arm has made no decision for this long although other arms have.
_SILENT = timedelta(days=1)


def models_in_log(lake: str) -> list[tuple[str, str, bool]]:
    """List the models whose decisions or shadow decisions are in a lake, the most recently used model first.

    Returns:
        A tuple for each model and arm: the model's digest, a description such as "decides as challenger of spring", and
        whether the model still serves.

    Raises:
        LogError: A log file was deleted while it was read.
    """
    last = _last_decisions(lake) if lake else {}
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


def _last_decisions(lake: str) -> dict[tuple[str, str, str | None], datetime]:
    columns = "experiment, arm, model_digest, event_time AS decided"
    with DecisionLog.of(lake).opened("shadow") as db:
        rows = db.execute(
            # A fallback without a digest does not show that the arm has another policy.
            f"""SELECT experiment, arm, model_digest, max(decided) FROM (
                SELECT {columns} FROM decision_log WHERE model_digest IS NOT NULL OR fallback_reason IS NULL
                UNION ALL SELECT {columns} FROM shadow_log WHERE model_digest IS NOT NULL)
            GROUP BY ALL"""
        ).fetchall()
    return {(experiment, arm, digest): at.astimezone(UTC) for experiment, arm, digest, at in rows}
