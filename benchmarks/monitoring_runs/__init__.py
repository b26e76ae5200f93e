"""The measurements of `monitoring.py`.

`days`: days of a market whose truth is known; `shifts`: what is done to them; `monitored`: how the monitor judges
them; `one_check`: a large check as a process of its own; `table`: the tables.
"""
