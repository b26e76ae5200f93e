import re
from html.parser import HTMLParser

import pytest

from monitoring.experiments.charts import track
from monitoring.experiments.page import page
from mtorl.experiment.arm import INCUMBENT
from tests.monitoring.experiments import made_views as made


class Tags(HTMLParser):
    """Collects the tags of an HTML page, and asserts that they are closed in the right order."""

    VOID = frozenset({"meta", "link", "br", "line", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag


@pytest.mark.parametrize("state", made.STATES)
def test_every_state_gives_a_self_contained_page(state: str) -> None:
    view = made.STATES[state]()
    text = page([view])
    parsed = Tags(text)
    assert view["advice"]["headline"] in text
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "iframe", "img", "object", "form")]
    addresses = [value for _, own in parsed.tags for name, value in own.items() if name in ("src", "href")]
    assert all(address and address.startswith(("#", "data:,")) for address in addresses)
    assert "url(" not in text and "@import" not in text
    names = [own["id"] for _, own in parsed.tags if "id" in own]
    assert len(names) == len(set(names))
    assert [tag for tag, _ in parsed.tags].count("h1") == 1


@pytest.mark.parametrize(("part", "outside"), [([0.0, 0.25], True), ([0.0, 1.0], False)])
def test_money_of_users_outside_the_experiment_is_labelled(part: list[float], outside: bool) -> None:
    users = {INCUMBENT: 500, "challenger": 500}
    experiment = made.made(layer_part=part)
    events = made.history(experiment, (0, "50%", {"by": "person"}))
    text = page([made.view(experiment, events, 2.0, made.verdict("inconclusive", "zero", users, 0.0), users)])
    for words in ("all arms and users outside<small>", "that of users outside in it", "the rest is for users outside"):
        assert (words in text) == outside


def test_all_experiments_share_one_page_with_an_index() -> None:
    views = [state() for state in made.STATES.values()]
    parsed = Tags(page(views))
    linked = [own["href"] for tag, own in parsed.tags if tag == "a"]
    assert linked == [f"#experiment-{n}" for n in range(1, len(views) + 1)]
    assert [own["id"] for tag, own in parsed.tags if tag == "article"] == [link[1:] for link in linked if link]
    Tags(page([]))


def test_user_input_is_escaped() -> None:
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    arm_name = f"c{bad}".replace("/", "")
    arms = [{"name": INCUMBENT, "weight": 0.5, "policy": "baseline"},
            {"name": arm_name, "weight": 0.5, "endpoint": "http://127.0.0.1:8085/<b>"}]  # fmt: skip
    experiment = made.made(name=bad, owner=bad, hypothesis=bad, arms=arms, layer=bad,
                           budgets=[{"campaign": bad, "channel": bad, "amount": 1.0}])  # fmt: skip
    users = {INCUMBENT: 7212, arm_name: 7156}
    found = made.verdict("ship", bad, users, 0.0225, left_out={bad: 3})
    found["segments"] = made.segments()
    found["segments"]["lifts"] = {bad: [{**found["segments"]["lifts"]["device"][0], "segment": bad}]}
    found["segments"]["smaller"] = {bad: 31}
    arm = {"users": 1, "fallback_ratio": 0.0, "latency_seconds": None}
    evidence = {"token": bad, "reason": bad, "arms": {bad: arm}}
    events = made.history(experiment, (0, "50%", {"by": "person", "reason": bad, "evidence": evidence}))
    traffic = made.traffic(users)
    traffic["arms"][arm_name]["channels"] = {bad: {"decisions": 5, "exposures": 4}}
    for known in ({}, {"problem": bad}):
        view = made.view(experiment, events, 500, found, users, traffic=traffic, **known)
        view["advice"]["command"] = f"mtorl experiment move {bad} promoted"
        for text in (page([view]), page([view, view])):
            parsed = Tags(text)
            assert not [tag for tag, _ in parsed.tags if tag in ("script", "img", "b\\")]
            assert not [name for _, own in parsed.tags for name in own if name.startswith("on")]
            assert "<script>alert" not in text and "&lt;script&gt;" in text


def test_a_served_page_reloads_itself_with_its_only_allowed_script() -> None:
    text = page([made.win()], refresh=7)
    assert "setInterval(refresh, 1000 * 7)" in text and text.count("<script>") == 1
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy and "script-src &#39;sha256-" in policy[1] and "default-src &#39;none&#39;" in policy[1]
    assert "script-src" not in page([made.win()])


def test_an_experiment_is_switched_off_since_its_kill_not_since_its_stage_began() -> None:
    view = made.killed()
    (kill,) = [event["at"] for event in view["events"] if event["what"] == "kill"]
    assert view["since"] != kill
    assert f"switched off</span> since {kill[:10]} {kill[11:16]}" in page([view])


def test_a_void_verdict_is_crossed_out() -> None:
    assert '<li class="void">' in page([made.mismatch()]) and '<li class="void">' not in page([made.win()])


def test_the_effect_at_each_move_comes_from_the_history() -> None:
    rows = re.findall(r'<th scope="row">(when it moved to [^,<]+|now)', page([made.win()]))
    assert rows == ["when it moved to 5%", "when it moved to 50%", "now"]
    assert "when it moved to" not in page([made.three_arms()]), "that was another challenger"


def test_an_interval_is_placed_on_its_line() -> None:
    placed = track([-0.5, 0.5], 0.0, (-1.0, 1.0), margin=0.8)
    assert placed is not None
    assert (placed.low, placed.width, placed.value, placed.zero, placed.margin) == (25.0, 50.0, 50.0, 50.0, 90.0)
    assert track(None, 0.0, (-1.0, 1.0)) is None and track([None, None], 0.0, (-1.0, 1.0)) is None
