"""Formatting of numbers, charts and HTML pages, shared by the report of a run and the description of a log.

In reading order: `words.py` (numbers as text), `charts.py` (Plotly charts), `page.py` (renders a template as one
self-contained file) with `frame.html.j2` and `parts.html.j2`.
"""
