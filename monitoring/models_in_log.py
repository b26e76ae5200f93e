"""Lists the models whose decisions are in a log, so that their artifacts are kept for verdicts on these decisions.

for digest, reason, serves in models_in_log("lake"): ...
"""

from datetime import UTC, datetime, timedelta

from monitoring.decision_log import DecisionLog

# A model no longer counts as serving if its arm has made no decision for this long, while other arms have.
_SILENT = timedelta(days=1)


def models_in_log(lake: str) -> list[tuple[str, str, bool]]:
    """List the models whose decisions, or shadow decisions, are in a lake. The most recently used one is first.

    Returns:
        For each model and arm: the digest, a description such as "decides as challenger of spring", and whether the
        model still serves. A model still serves if it took the arm's newest decision, at most a day before the newest
        decision of all arms. The list is empty if `lake` is "".

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
    """Return the time of the last decision by experiment, arm and model digest. The digest of a rule is None."""
    columns = "experiment, arm, model_digest, event_time AS decided"
    with DecisionLog.of(lake).opened("shadow") as db:
        rows = db.execute(
            # Leave out fallbacks without a digest: they show that the arm's policy has failed, not that the arm has
            # another policy.
            f"""SELECT experiment, arm, model_digest, max(decided) FROM (
                SELECT {columns} FROM decision_log WHERE model_digest IS NOT NULL OR fallback_reason IS NULL
                UNION ALL SELECT {columns} FROM shadow_log WHERE model_digest IS NOT NULL)
            GROUP BY ALL"""
        ).fetchall()
    return {(experiment, arm, digest): at.astimezone(UTC) for experiment, arm, digest, at in rows}
