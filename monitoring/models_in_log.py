"""Lists the models that took the decisions of a log, since judging these decisions needs their artifacts.

for digest, reason, serves in models_in_log("lake"): ...
"""

from datetime import UTC, datetime, timedelta

from monitoring.decision_log import DecisionLog

_SILENT = timedelta(days=1)  # an arm without decisions for this long, while other arms have decisions, no longer serves


def models_in_log(lake: str) -> list[tuple[str, str, bool]]:
    """Models of all decisions in the lake, including shadow decisions, newest first: digest, reason, whether it serves.

    A model serves if no other policy has decided for its arm after the model. Without a lake, the list is empty.

    Raises:
        LogError: A file was deleted while it was read.
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
    """Time of each model's last decision, by experiment, arm and digest (None: a policy without one)."""
    columns = "experiment, arm, model_digest, event_time AS decided"
    with DecisionLog.of(lake).opened("shadow") as db:
        rows = db.execute(
            # A fallback has no digest, and is no evidence that another policy decides for the arm.
            f"""SELECT experiment, arm, model_digest, max(decided) FROM (
                SELECT {columns} FROM decision_log WHERE model_digest IS NOT NULL OR fallback_reason IS NULL
                UNION ALL SELECT {columns} FROM shadow_log WHERE model_digest IS NOT NULL)
            GROUP BY ALL"""
        ).fetchall()
    return {(experiment, arm, digest): at.astimezone(UTC) for experiment, arm, digest, at in rows}
