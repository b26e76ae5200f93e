"""The parts of `monitoring.py`.

In reading order: `days` (simulated days with known truth), `shifts` (changes of these days), `monitored` (the monitor's
judgement of each day), `one_check` (a large check in a subprocess), `table`.
"""
