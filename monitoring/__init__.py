"""Judges the advertising traffic: computes verdicts on experiments, raises alarms about harm, and writes reports.

In reading order:

- `decision_log.py` reads the router's decisions;
- `verdict/` decides whether a challenger is better than the incumbent;
- `watch/` is the monitor, which compares each day with earlier days;
- `experiments/` builds the web page and the Prometheus gauges of experiments;
- `gauge_table.py`, `models_in_log.py` and `pipeline_runs.py` are helpers;
- `report.py` writes the HTML report of a run of `mtorl run`.
"""
