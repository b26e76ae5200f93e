"""The Grafana dashboards: they are what the script writes, Grafana finds them, and each query has an answer."""

from __future__ import annotations

import json
import math
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.dashboards.limits import limit, rules
from tests.manifests.conftest import MANIFESTS, Objects, of_kind
from tests.manifests.dashboard_data import NAMESPACE, NOW
from tests.manifests.metrics_store import Answer, Store, store_of
from tests.repository import ROOT

pytestmark = pytest.mark.long


FOLDER = MANIFESTS / "base" / "dashboards"
WRITTEN: dict[str, str] = runpy.run_path(str(ROOT / "scripts" / "write_dashboards.py"))["texts"]()
BOARDS: dict[str, dict[str, Any]] = {name.removesuffix(".json"): json.loads(text) for name, text in WRITTEN.items()}
UIDS = sorted(BOARDS)
HOURS = 2.0


def panels(uid: str) -> list[dict[str, Any]]:
    return [panel for panel in BOARDS[uid]["panels"] if panel["type"] != "row"]


def test_the_dashboards_are_current() -> None:
    there = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert there == WRITTEN, "run python scripts/write_dashboards.py"


def test_grafana_finds_them(production: Objects) -> None:
    """Its sidecar looks for ConfigMaps with a label; kubectl keeps them in an annotation, which has 256 KiB at most."""
    maps = [o for o in of_kind(production, "ConfigMap") if o["metadata"]["labels"].get("grafana_dashboard") == "1"]
    found = {name: text for o in maps for name, text in o["data"].items()}
    assert found == WRITTEN
    for o in maps:
        assert o["metadata"]["name"].removeprefix("mtorl-dashboard-") == next(iter(o["data"]))[len("mtorl-") : -5]
        assert o["metadata"]["annotations"]["grafana_folder"] == "MTORL"
        assert len(json.dumps(o)) < 200_000


@pytest.mark.parametrize("uid", UIDS)
def test_a_dashboard_is_for_any_grafana(uid: str) -> None:
    """A fixed uid, which addresses name; Prometheus and namespace are chosen; the others are a click away."""
    board = BOARDS[uid]
    assert board["uid"] == uid
    assert "id" not in board
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert [name for name in variables if name != "experiment"] == ["datasource", "namespace"]
    sources = re.findall(r'"uid": "(\$[^"]*)"', json.dumps([board["panels"], board["annotations"]]))
    assert set(sources) == {"${datasource}"}
    others, runbooks = board["links"]
    assert others["type"] == "dashboards" and set(others["tags"]) <= set(board["tags"])
    assert others["includeVars"] and others["keepTime"]
    assert runbooks["url"].endswith("docs/cluster.md#alerts")


@pytest.mark.parametrize("uid", UIDS)
def test_panels_say_what_they_show(uid: str) -> None:
    titles = [panel["title"] for panel in panels(uid) if panel["type"] == "stat"]
    assert len(titles) == len(set(titles))
    for panel in panels(uid):
        assert panel["title"] and panel["description"].endswith("."), panel
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]


@pytest.mark.parametrize("uid", UIDS)
def test_panels_fill_the_page(uid: str) -> None:
    """No two at one place, and no hole between them."""
    cells: set[tuple[int, int]] = set()
    for panel in BOARDS[uid]["panels"]:
        place = panel["gridPos"]
        own = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not own & cells, panel["title"]
        cells |= own
    assert {x for x, _ in cells} == set(range(24))
    assert len(cells) == 24 * (1 + max(y for _, y in cells))


def queries(uid: str) -> list[tuple[str, bool, str]]:
    """Title, whether it is of a moment, and the query, of all panels and of what marks alerts in them."""
    found = [
        (panel["title"], target.get("instant", False), target["expr"])
        for panel in panels(uid)
        for target in panel["targets"]
    ]
    return [*found, *(("annotation", False, one["expr"]) for one in BOARDS[uid]["annotations"]["list"])]


def test_every_alert_leads_to_a_dashboard() -> None:
    """With the namespace chosen; what `externalLabels.grafana` is not, the path is without."""
    for name, rule in rules().items():
        found = re.fullmatch(
            r"\{\{ \$externalLabels\.grafana \}\}/d/([\w-]+)\?var-namespace=\{\{ \$labels\.namespace \}\}"
            r"(&var-experiment=\{\{ \$labels\.experiment \}\})?",
            rule["annotations"].get("dashboard_url", ""),
        )
        assert found, f"{name}: no dashboard_url"
        assert found[1] in BOARDS, f"{name}: no dashboard {found[1]}"
        if found[2]:
            assert "experiment" in rule["expr"] and found[1] == "mtorl-experiment", name


@pytest.mark.parametrize("uid", UIDS)
def test_its_alerts_are_listed_on_top(uid: str) -> None:
    own = {name for name, rule in rules().items() if f"/d/{uid}?" in rule["annotations"]["dashboard_url"]}
    top = [panel for panel in panels(uid) if panel["title"] == "Alerts" and panel["gridPos"]["y"] <= 4]
    assert {panel["type"] for panel in top} == {"stat", "table"}
    for panel in top:
        (names,) = re.findall(r'alertname=~"([^"]*)"', panel["targets"][0]["expr"])
        assert set(names.split("|")) == own


@pytest.mark.parametrize(
    ("alert", "value", "above"),
    [
        ("MtorlFallbackRatioHigh", 0.05, True),
        ("MtorlBudgetNearlySpent", 0.9, True),  # not the "> 0" before it
        ("MtorlPolicyCollapsed", 0.85, True),  # not the "> 1000"
        ("MtorlSpoolNearlyFull", 0.2, False),
        ("MtorlMonitorStale", 10_800, True),  # 3 * 3600
        ("MtorlOperatorDown", 900, True),
    ],
)
def test_a_limit_is_that_of_the_rule(alert: str, value: float, above: bool) -> None:
    found = limit(alert)
    assert (found.value, found.above) == (value, above)
    drawn = [
        step["value"]
        for uid in UIDS
        for panel in panels(uid)
        if [link["title"] for link in panel.get("links", [])] == [alert]
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    ]
    assert value in drawn


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """With what routers, experiments, monitor and cluster say in two hours."""
    folder = tmp_path_factory.mktemp("store")
    made = [sys.executable, "-P", "-m", "tests.manifests.dashboard_data", str(folder / "metrics"), str(HOURS)]
    subprocess.run(made, check=True, cwd=ROOT, env={"PYTHONPATH": str(Path(ROOT)), "PATH": "/usr/bin"})
    with store_of(folder / "metrics", folder) as running:
        yield running


def _asked(store: Store, instant: bool, expr: str, **variables: str) -> Answer:
    """As Grafana asks, with its variables in their places."""
    for name, value in variables.items():
        expr = expr.replace(f"${name}", value)
    assert "$" not in expr, expr
    answer = store.instant(expr, NOW) if instant else store.over_time(expr, NOW - HOURS * 3600, NOW)
    # TorchServe's counters have names of their own kind, and what is spent only grows, within a period.
    known = r'might not be a counter.*"(Requests\dXX|ts_\w+|mtorl_budget_spent)"'
    remarks = [one for one in answer.remarks if not re.search(known, one)]
    assert not remarks, f"{expr}: {remarks}"
    return answer


def _numbers(answer: Answer) -> list[float]:
    values = [series["values"] if "values" in series else [series["value"]] for series in answer.series]
    return [number for of in values for _, text in of if math.isfinite(number := float(text))]


def _experiments(store: Store) -> list[str]:
    (variable,) = [v for v in BOARDS["mtorl-experiment"]["templating"]["list"] if v["name"] == "experiment"]
    series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
    return store.label_values(label, series.replace("$namespace", NAMESPACE))


def test_the_variables_have_values(store: Store) -> None:
    for uid in UIDS:
        (variable,) = [v for v in BOARDS[uid]["templating"]["list"] if v["name"] == "namespace"]
        assert variable["query"]["query"] == "label_values(mtorl_ready, namespace)"
    assert store.label_values("namespace", "mtorl_ready") == [NAMESPACE]
    assert {"mtorl-and-a-vendor", "done", "mtorl-vs-rules"} <= set(_experiments(store))


@pytest.mark.parametrize("uid", UIDS)
def test_every_query_has_an_answer(store: Store, uid: str) -> None:
    """Of an experiment: of one of them at least, since none is promoted and at a stage at once."""
    experiments = _experiments(store)
    for title, instant, expr in queries(uid):
        assert not re.search(r"\b(user|unit|campaign)(_id)?\b", expr), f"{title}: it is about a user or a campaign"
        chosen = experiments if "$experiment" in expr else [""]
        answers = [_asked(store, instant, expr, namespace=NAMESPACE, experiment=one) for one in chosen]
        assert any(_numbers(answer) for answer in answers), f"{title}: nothing from {expr}"


@pytest.mark.parametrize("uid", UIDS)
def test_a_query_is_about_one_namespace(store: Store, uid: str) -> None:
    """Of one in which nothing is, it says nothing: no zero either, which would look fine."""
    for title, instant, expr in queries(uid):
        answer = _asked(store, instant, expr, namespace="nobody", experiment="mtorl-and-a-vendor")
        assert not answer.series, f"{title}: {expr}"


@pytest.mark.parametrize("uid", UIDS)
def test_a_series_has_a_name_of_its_own(store: Store, uid: str) -> None:
    """Two lines with one name can't be told apart, and a name with a label that is not there is empty."""
    for panel in panels(uid):
        if panel["type"] == "table":
            continue
        names = []
        for target in panel["targets"]:
            variables = {"namespace": NAMESPACE, "experiment": "mtorl-and-a-vendor"}
            for series in _asked(store, target.get("instant", False), target["expr"], **variables).series:
                said = re.sub(r"\{\{(\w+)\}\}", lambda m: series["metric"].get(m[1], ""), target["legendFormat"])  # noqa: B023
                names.append(said)
                for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                    assert label in series["metric"] or label in ("arm", "experiment"), (panel["title"], label)
        assert len(names) == len(set(names)), f"{panel['title']}: {sorted(names)}"


@pytest.mark.parametrize("uid", UIDS)
def test_rows_of_a_table_fit_together(store: Store, uid: str) -> None:
    """Grafana puts answers with the same labels into one row: a query with other labels makes rows of its own."""
    for panel in panels(uid):
        if panel["type"] == "table":
            (organize,) = [t for t in panel["transformations"] if t["id"] == "organize"]
            labels = {name for name in organize["options"]["indexByName"] if not name.startswith("Value")}
            for target in panel["targets"]:
                for series in _asked(store, True, target["expr"], namespace=NAMESPACE).series:
                    assert set(series["metric"]) <= labels, panel["title"]
