"""The monitor: finds changes in decisions and outcomes, harm, and its cost.

    mtorl monitor check --lake ... --registry ...      # hourly; judges each day once
    mtorl monitor status

In reading order: `stream_names.py`, `measures.py` (measures of a period), `measure_alarms.py` (against earlier
periods), `columns.py` (columns of a period against the `training_sample.py`, with Evidently's page by
`evidently_page.py`), `column_alarms.py` (columns over periods), `retrain.py` (requests for a training), `state.py`,
`check.py` (one whole check), `exporter.py` (for Prometheus).

**Harm is not change.** A measure whose fall or rise costs gain or money is harm; all else that moves explains harm, or
is news. Harm, other measures and columns have an error rate each.
"""
