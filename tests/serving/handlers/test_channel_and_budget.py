"""The handlers of one decision each: the same rule as the one of both."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.window.window import WindowBatch
from serving.handlers.policy_handler import BudgetHandler, ChannelHandler, PolicyHandler
from tests.serving.handler_fixtures import SPEC, Network, ask, item, made, v1, window

PRICES = st.none() | st.floats(0, 2) | st.fixed_dictionaries({name: st.floats(0, 2) for name in SPEC.channels})
CANDIDATES = st.none() | st.lists(st.sampled_from(SPEC.channels), min_size=1, unique=True)


class Heads(Network):
    def predict(self, batch: WindowBatch) -> tuple[Any, Any, Any]:
        logits, reward, cost = super().predict(batch)
        return (
            logits,
            reward * [1.0, 2.0, 3.0],
            cost * [0.5, 1.0, 4.0],
        )  # utility at price p: .1 - .1p, .2 - .2p, .3 - .8p


def predictions(handler: Any, *items: Any) -> list[dict[str, Any]]:
    (answer,), context = ask(handler, v1(*items))
    assert context.status == {}
    return answer["predictions"]


@given(u=st.floats(0, 0.999), price=PRICES, candidates=CANDIDATES)
def test_channel_and_then_budget_is_what_the_policy_says_at_once(u: float, price: Any, candidates: Any) -> None:
    asked = item(u=u, price=price, candidates=candidates)
    (both,) = predictions(made(Heads().predict), asked)
    (channel,) = predictions(made(Heads().predict, ChannelHandler), asked)
    (budget,) = predictions(
        made(Heads().predict, BudgetHandler), {"window": window(), "price": price, "channel": channel["channel"]}
    )
    assert set(channel) == {"channel", "propensity", "channel_probs", "model"}
    of_all = ("prices", "exposure_probs", "expected_rewards", "expected_costs")
    assert {**channel, **budget, **{name: both[name] for name in of_all}} == both


def test_the_budget_handler_takes_the_best_candidate_and_needs_no_u() -> None:
    handler = made(Heads().predict, BudgetHandler)
    best, cheap, dear, forced, by_channel = predictions(
        handler,
        {"window": window()},  # the artifact's price, 0.1
        {"window": window(), "candidates": ["search", "social"]},
        {"window": window(), "price": 2},
        {"window": window(), "channel": "video", "price": 2, "candidates": ["video", "search"]},
        {"window": window(), "price": {"search": 0, "social": 1, "video": 1}},
    )
    assert best == {
        "channel": "video",
        "expected_reward": pytest.approx(0.3),
        "expected_cost": pytest.approx(0.8),
        "expose": True,
        "utility": pytest.approx(0.22),
        "price": 0.1,
        "model": {"name": "challenger", "version": "abc", "digest": "abcdef"},
    }
    assert (cheap["channel"], cheap["utility"]) == ("social", pytest.approx(0.18))
    assert (dear["channel"], dear["expose"]) == ("search", False), "the least bad of what is not worth its cost"
    assert (forced["channel"], forced["utility"], forced["expose"]) == ("video", pytest.approx(-1.3), False)
    assert (by_channel["channel"], by_channel["price"]) == ("search", 0.0)


@pytest.mark.parametrize("kind", [PolicyHandler, ChannelHandler, BudgetHandler])
def test_the_routers_item_suits_every_handler(kind: Any) -> None:
    more = {"user_id": "u1", "campaign_id": "c", "timestamp": "2026-01-01T12:00:00+00:00", "context": {"hour": 1.0}}
    asked = {**item(price=0.5), "candidates": ["search", "video"]}
    (plain, told), _ = ask(made(Network().predict, kind), v1(asked), v1({**asked, **more}))
    assert plain == told and "error" not in told["predictions"][0]


def test_a_forecast_is_no_higher_than_the_highest_possible_cost() -> None:
    asked = {**item(price=0.5), "candidates": ["search"]}
    for kind in (PolicyHandler, BudgetHandler):
        dear, cheap, beside = predictions(
            made(Heads().predict, kind),
            asked,
            {**asked, "costs": {"search": 0.001}},
            {**asked, "costs": {"video": 0.001}},
        )
        assert dear["expected_cost"] > cheap["expected_cost"] == 0.001
        assert beside["expected_cost"] == dear["expected_cost"]


BAD_OFFERS = [
    ({"window": window(), "channel": "radio"}, "channel must be one of the candidates"),
    ({"window": window(), "channel": ["search"]}, "channel must be one of the candidates"),
    ({"window": window(), "channel": "video", "candidates": ["search"]}, "channel must be one of the candidates"),
    ({"window": window(), "costs": {"tv": 1}}, "costs must be an object of channel and number"),
    ({"window": window(), "costs": {"search": -1}}, "costs.search must be a number of at least 0"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_OFFERS)
def test_a_bad_offer_gets_its_own_error_and_fails_no_other(bad: Any, message: str) -> None:
    network = Heads()
    first, error, last = predictions(made(network.predict, BudgetHandler), item(4.0), bad, item(5.0))
    assert message in error["error"]
    assert list(error) == ["error"]
    assert "channel" in first and "channel" in last
    assert network.calls == 1
