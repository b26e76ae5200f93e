"""Tests that an HTML page is written atomically and loads nothing."""

from pathlib import Path

from mtorl.pages import charts
from mtorl.pages.page import write_page

TEMPLATE = """{% extends "frame.html.j2" %}
{% from "parts.html.j2" import figure %}
{% block title %}{{ name }}{% endblock %}
{% block main %}
<b>{{ rate | share }} {{ name | shout }}</b>
{% if chart %}{% call figure(chart) %}Shares{% endcall %}{% endif %}
{{ absent.deeper }}
{% endblock %}
"""


def written(folder: Path, **content: object) -> str:
    (folder / "page.html.j2").write_text(TEMPLATE)
    filters = {"shout": lambda text: str(text).upper()}
    page = write_page(folder / "out" / "page.html", folder / "page.html.j2", content, filters)
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    return page.read_text(encoding="utf-8")


def test_a_page_has_its_frame_filters_and_charts(tmp_path: Path) -> None:
    chart = charts.shares("of-channels", [("search", 0.75), ("video", 0.25)], "Share of touchpoints")
    text = written(tmp_path, name="a <b>", rate=0.123, chart=chart)
    assert "<title>a &lt;b&gt;</title>" in text and "<b>12.3% A &lt;B&gt;</b>" in text
    assert 'id="chart-of-channels"' in text and "<figcaption>Shares</figcaption>" in text
    assert 'aria-label="Share of touchpoints: search 75.0%, video 25.0%."' in text


def test_missing_content_is_left_out(tmp_path: Path) -> None:
    text = written(tmp_path, name="n")
    assert "<b>— N</b>" in text and "<figure>" not in text
