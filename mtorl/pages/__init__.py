"""What the report of a run and the description of a log have in common: how numbers, charts and pages look.

In reading order: `words.py` (numbers as people read them), `charts.py` (Plotly in few words), `page.py` (a template
becomes one file that loads nothing from outside) with `frame.html.j2` and `parts.html.j2`.
"""
