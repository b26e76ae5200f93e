import json
import re
from pathlib import Path
from typing import Any

import pytest

from monitoring.report import render
from tests.monitoring import fake_run

SECTIONS = ("experiment", "serving", "gate", "model", "data", "monitor")
CHARTS = ("lift", "budgets", "gate", "training", "channel-shares", "journey-lengths")


def body(page: Path) -> str:
    return re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run.write(tmp_path_factory.mktemp("run"))


def change(run: Path, **sections: Any) -> None:
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | sections))


def test_the_report_of_a_complete_run(run: Path) -> None:
    page = render(run)
    text = body(page)
    assert page == run / "report.html"
    for section in SECTIONS:
        assert f'<section id="{section}">' in text
    assert sorted(re.findall(r'id="chart-([\w-]+)"', text)) == sorted(CHARTS)
    assert "+0.0236" in text, "true lift is missing"
    assert text.count(f'<a href="{fake_run.PAGE}">') == 1, "link to Evidently's page of the shifted days"
    assert "0 / 3" in text and text.count('<td class="words alarm">moved</td>') == 3
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text), "nothing may be loaded"
    assert page.read_text(encoding="utf-8").count("plotly.js v") <= 2, "inline it once"


def test_the_report_shows_the_history_of_stages(tmp_path: Path) -> None:
    run = fake_run.write(tmp_path)
    row = re.search(r"<tr><td>50%</td>.*", text := body(render(run)))
    cells = ["50%", "2026-11-28 10:00:00", "the ramp", "&lt;b&gt;fine&lt;/b&gt;"]
    assert row and re.findall(r">([^<>]+)</td>", row[0]) == cells
    assert "After the promotion" not in text
    stages = json.loads((run / "summary.json").read_text())["stages"]
    after = {"decisions": 100, "incumbent": 100, "promoted_model": 99, "fallbacks": 1}
    change(run, stages=stages | {"phase": "promoted", "waits": [], "after_promotion": after})
    assert "After the promotion, 99 of 100 decisions" in body(render(run))


def test_names_are_escaped(tmp_path: Path) -> None:
    run = fake_run.write(tmp_path)
    evil = "</script><script>alert(1)</script>"
    summary = json.loads((run / "summary.json").read_text())
    change(run, dataset=evil, budget={evil: summary["budget"]["incumbent"]}, artifacts={evil: evil})
    assert evil not in render(run).read_text(encoding="utf-8")
