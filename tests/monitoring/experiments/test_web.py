import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Sequence

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.experiments.document import View
from monitoring.experiments.gauges import exposition
from monitoring.experiments.web import serving, site
from tests.monitoring.experiments import made_views as made

LABELS = {"experiment", "arm", "stage", "verdict", "condition", "metric", "period", "reason", "unit", "currency"}


def samples(views: Sequence[View]) -> dict[tuple[str, ...], float]:
    """Return each gauge's value by its name, experiment and other label values."""
    return {
        (
            sample.name.removeprefix("mtorl_experiment_"),
            sample.labels["experiment"],
            *(value for label, value in sorted(sample.labels.items()) if label != "experiment"),
        ): sample.value
        for family in text_string_to_metric_families(exposition(views).decode())
        for sample in family.samples
    }


def test_gauges_equal_the_page() -> None:
    found = samples([made.win()])
    name = "mtorl-vs-rules"
    assert found["stage", name, "50%"] == 1 and found["verdict", name, "ship"] == 1
    assert found["users", name, "challenger"] == 7156 and found["share_ratio", name, "challenger"] == 0.5
    of = (name, "challenger", "click_per_decision", "clicks per decision")
    assert found["lift_lower", *of] < found["lift", *of] < found["lift_upper", *of]
    assert found["lift", *of] == pytest.approx(0.0225)
    assert found["srm_p_value", name] == 0.84 and found["switched_on", name] == 1
    assert found["guardrail_breached", name, "challenger", "cost_per_decision"] == 0
    assert found["spent", name, "*", "currency units", "total"] == pytest.approx(8200)
    assert found["attention", name, "held"] == found["attention", name, "harm"] == 0
    assert not any("day" in labels for labels in found), "daily accounts are of one channel"


def test_harm_and_missing_data_have_different_gauges() -> None:
    back, draft = samples([made.rolled_back()]), samples([made.draft()])
    assert back["stage", "mtorl-vs-rules", "rolled back"] == 1 and back["attention", "mtorl-vs-rules", "harm"] == 1
    assert back["guardrail_breached", "mtorl-vs-rules", "challenger", "cost_per_decision"] == 1
    assert {labels[0] for labels in draft} == {
        "stage", "looked_timestamp_seconds", "unreadable", "switched_on", "attention", "share_ratio",
    }  # fmt: skip
    assert samples([made.mismatch()])["attention", "mtorl-vs-rules", "held"] == 1


def test_a_promotion_reports_whether_it_is_settled() -> None:
    done = made.promoted()
    waits: View = {**done, "settled": {"done": False, "reason": "RollingOut"}}
    assert (
        samples([done])["settled", "done", "HandedOver"] == 1 and samples([waits])["settled", "done", "RollingOut"] == 0
    )
    assert not any(labels[0] == "settled" for labels in samples([made.win(), made.rolled_back()]))


def test_the_first_of_two_experiments_with_one_name_gets_the_series() -> None:
    both = exposition([made.win(), made.early()]).decode()
    assert both.count('mtorl_experiment_stage{experiment="mtorl-vs-rules"') == 1
    assert 'stage="50%"' in both


def test_gauge_names_have_the_prefix_and_few_labels() -> None:
    views = [state() for name, state in made.STATES.items() if name in ("killed", "three-arms", "late", "promoted")]
    for family in text_string_to_metric_families(exposition(views).decode()):
        assert re.fullmatch(r"mtorl_experiment_[a-z_]+", family.name) and family.documentation
        for sample in family.samples:
            assert set(sample.labels) <= LABELS


def test_page_documents_and_gauges_are_served_read_only() -> None:
    views = [made.win(), made.late()]
    with serving(site(lambda: views, "127.0.0.1"), "127.0.0.1", 0) as url:
        with urllib.request.urlopen(url) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            assert (answer.headers["X-Frame-Options"], answer.headers["Server"]) == ("DENY", "mtorl")
        assert "Promote challenger" in text and "slow-model" in text
        assert json.load(urllib.request.urlopen(f"{url}experiments.json")) == views
        assert b"mtorl_experiment_stage{" in urllib.request.urlopen(f"{url}metrics").read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}../etc/passwd")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(urllib.request.Request(url, data=b"x", method="POST"))
        port = int(url.rpartition(":")[2].strip("/"))
        with pytest.raises(OSError), serving(site(lambda: views, "127.0.0.1"), "127.0.0.1", port):
            pass


@pytest.mark.parametrize(("host", "status"), [("evil.example.com", 403), ("localhost:80", 200), ("[::1]:80", 200)])
def test_a_request_for_another_host_name_is_refused(host: str, status: int) -> None:
    with serving(site(lambda: [made.draft()], "127.0.0.1"), "127.0.0.1", 0) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://").strip("/"), timeout=10)
        connection.request("GET", "/", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()
