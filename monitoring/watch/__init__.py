"""The monitor: compares each day's decisions and outcomes with earlier days, and raises alarms.

    mtorl monitor check --lake ... --registry ...      # hourly; judges each day once
    mtorl monitor status

In reading order:

- `stream_names.py` names the time series that are watched;
- `measures.py` measures a day, and `measure_alarms.py` compares its measures with earlier days;
- `columns.py` compares a day's columns with `training_sample.py`, with a page by `evidently_page.py`;
- `column_alarms.py` raises alarms on columns, and `retrain.py` requests trainings;
- `check.py` runs one check, `state.py` stores its result, and `exporter.py` exports it to Prometheus.

**Harm and other changes have separate alarms.** A change is harm if it costs gain or money, such as a fall of the gain
per decision. Other changes only help to explain harm. Alarms about harm, about other measures and about columns have
separate rates of false alarms.
"""
