"""The parts of `monitoring.py`.

In reading order: `days` (simulated days), `shifts` (changes of a simulated market), `monitored` (applies the monitor to
each day), `one_check` (measures a check of a day with many decisions), `table` (the tables).
"""
