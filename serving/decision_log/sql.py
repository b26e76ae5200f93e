"""The log as SQL: which of several records of one id counts."""

from __future__ import annotations

from serving.decision_log.records import Kind, sql_columns

# A decision that was logged twice was withdrawn (the first write was late, so the default action was answered): its
# second record sorts first. An event is written once by each router; several routers' folders may hold it twice.
_KEYS: dict[Kind, tuple[str, str]] = {
    "decision": ("decision_id", "expose, fallback_reason IS NULL"),
    "outcome": ("event_id", "event_time"),
}


def one_row_each(kind: Kind, relation: str) -> str:
    """A query for the records of a kind, each id once, in order of time, with the columns of the schema."""
    key, first = _KEYS[kind]
    return f"""
        SELECT {", ".join(sql_columns(kind))} FROM {relation}
        QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {first}) = 1
        ORDER BY event_time, {key}
    """


def quoted(text: object) -> str:
    """A text literal."""
    return "'" + str(text).replace("'", "''") + "'"
