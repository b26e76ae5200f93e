"""Describes an experiment as one JSON document, and builds the page and the gauges of experiments from documents.

    view = experiment_view(experiment, events, known, now)       # JSON-ready; the same on a laptop and a cluster
    Path("report.html").write_text(page([view]))

In reading order:

- `document.py` defines the fields of the document;
- `traffic.py` reads decisions by channel, and the money spent, from the log;
- `money.py` forecasts whether the budget lasts;
- `advice.py` recommends the owner's next action;
- `view.py` builds the document from these parts;
- `findings.py` reads the log once, for the document and for the ramp;
- `charts.py`, `page.py` and `page.html.j2` render the HTML page;
- `gauges.py` exports Prometheus gauges;
- `web.py` serves the page and the gauges.
"""
