"""Views of experiments: one document of what is known, and the page, the gauges and the server made from it.

    view = experiment_view(experiment, events, known, now)       # JSON-ready; the same on a laptop and a cluster
    Path("report.html").write_text(page([view]))

In reading order: `document.py` (what a document says), `traffic.py` (channels and money, from the decision log),
`money.py` (whether it lasts), `newest.py` (how old the newest decision is), `advice.py` (what to do), `view.py` (puts
it together), `look.py` (all that the log says), `charts.py` (where the marks of a drawing lie), `page.py` with
`page.html.j2` (one HTML file), `gauges.py` (Prometheus), `web.py` (serves both).
"""
