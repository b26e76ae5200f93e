"""Formats numbers, charts and HTML pages, for the report of a run and the description of a log.

In reading order: `words.py` (numbers as text), `charts.py` (Plotly charts), and `page.py`, which renders a template as
one self-contained HTML file. `frame.html.j2` and `parts.html.j2` are common parts of the templates.
"""
