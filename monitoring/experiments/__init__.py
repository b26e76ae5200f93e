"""Views of experiments: one document, and the page, the gauges and the server made from it.

    view = experiment_view(experiment, events, known, now)       # JSON-ready; the same on a laptop and a cluster
    Path("report.html").write_text(page([view]))

In reading order: `document.py` (its fields), `traffic.py` (channels, money and the newest decision of the log),
`money.py` (whether budgets last), `advice.py`, `view.py` (builds the document), `findings.py` (reads the log),
`charts.py`, `page.py` with `page.html.j2`, `gauges.py` (Prometheus), `web.py` (serves page and gauges).
"""
