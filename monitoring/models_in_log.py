"""Lists the models whose decisions are in a log, so that their artifacts are kept for verdicts on these decisions.

for digest, reason, serves in models_in_log("lake"): ...
"""

from datetime import UTC, datetime, timedelta

from monitoring.decision_log import DecisionLog

# If an arm has made no decision for this long while other arms have, the arm's model no longer counts as serving.
_SILENT = timedelta(days=1)


def models_in_log(lake: str) -> list[tuple[str, str, bool]]:
    """List the models that have taken decisions in a lake, including shadow decisions, the most recently used first.

    Returns:
        For each model and arm: the digest, a description such as "decides as challenger of spring", and whether the
        model still serves. A model still serves if the arm's newest decision is its own, and is at most a day older
        than the newest decision of all arms. The list is empty if `lake` is "".

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
    """Return the time of each model's last decision, by experiment, arm and digest. A rule has the digest None."""
    columns = "experiment, arm, model_digest, event_time AS decided"
    with DecisionLog.of(lake).opened("shadow") as db:
        rows = db.execute(
            # A fallback without a digest is left out: it does not show that another policy now decides for the arm.
            f"""SELECT experiment, arm, model_digest, max(decided) FROM (
                SELECT {columns} FROM decision_log WHERE model_digest IS NOT NULL OR fallback_reason IS NULL
                UNION ALL SELECT {columns} FROM shadow_log WHERE model_digest IS NOT NULL)
            GROUP BY ALL"""
        ).fetchall()
    return {(experiment, arm, digest): at.astimezone(UTC) for experiment, arm, digest, at in rows}
