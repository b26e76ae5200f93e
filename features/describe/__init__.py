"""Writes the report on a log for the command `mtorl data describe`.

Reading order: `figures.py` (computes the numbers), `charts.py` (draws the charts), `page.py` with `page.html.j2`
(writes the HTML page).
"""
