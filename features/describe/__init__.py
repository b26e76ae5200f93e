"""The report on a log that `mtorl data describe` writes.

Reading order: `figures.py` (aggregates that the engine computes), `charts.py`, `page.py` with `page.html.j2`.
"""
