"""The parts of `monitoring.py`.

In reading order: `days` (simulates days), `shifts` (changes of a simulated market), `monitored` (lets the monitor judge
each day), `one_check` (measures the duration of a check), `table` (formats the tables).
"""
