"""Numbers, charts and pages, shared by the report of a run and the description of a log.

In reading order: `words.py` (numbers as people read them), `charts.py` (Plotly in few words), `page.py` (a template
becomes one file that loads nothing from outside) with `frame.html.j2` and `parts.html.j2`.
"""
