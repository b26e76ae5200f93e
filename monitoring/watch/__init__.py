"""The monitor: detects harm and its cost, and other changes of decisions and outcomes.

    mtorl monitor check --lake ... --registry ...      # hourly; judges each day once
    mtorl monitor status

In reading order: `stream_names.py`, `measures.py` (measures of a period), `measure_alarms.py` (compares them with
earlier periods), `columns.py` (compares columns of a period with the `training_sample.py`; `evidently_page.py` draws
the page), `column_alarms.py` (columns over periods), `retrain.py` (requests for a training), `state.py`, `check.py`
(one complete check), `exporter.py` (for Prometheus).

**Harm is more than change.** If the fall or rise of a measure costs gain or money, it is harm. All other changes only
explain harm, or are worth knowing. Harm, other measures and columns each have a separate error rate.
"""
