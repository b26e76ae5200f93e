"""The monitor: has anything changed in what is decided, does it do harm, and what does it cost?

    mtorl monitor check --decision-log ... --registry ...      # hourly; judges each day once
    mtorl monitor status

In reading order: `streams.py` (the names of what is watched, and what people are woken for), `measures.py` (what is
measured of a period), `measure_alarms.py` (measures against earlier periods), `columns.py` (columns of a period against
the `training_sample.py`, with Evidently's page by `evidently_page.py`), `column_alarms.py` (which of them have moved,
over periods), `retrain.py` (when to ask for a new training), `closed.py` (a time of the week at which nobody comes),
`state.py` (what is kept), `check.py` (one check, all of it), `exporter.py` and `runs_exporter.py` (the result for
Prometheus).

**Harm is told from change.** A measure whose fall or rise costs gain or money is harm; all else that moves explains it,
or is news. Each of the three has an error rate of its own: harm, other measures, columns.
"""
