"""An arm whose policy is rows of the experiment file is answered in the router, and loaded anew with the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mtorl.experiment.rule import first_fit
from tests.experiments import experiment
from tests.serving.router_fixtures import CONTEXT, Harness, instance, only, run

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")

ROWS = [
    {"when": {"age": "30-39"}, "channel": "search", "expose": False},
    {"when": {"device": "phone", "hour": [13, 14]}, "channel": "video"},
    {"channel": "search"},
]


def arms(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"arms": [{"name": name, "weight": 0.5, "policy": list(rows)} for name in ("incumbent", "challenger")]}


def test_rows_decide_and_their_probabilities_are_known(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        known, phone, tv = await h.predict(
            instance("u1"), instance("u2"), instance("u3", context={**CONTEXT, "device": "tv"})
        )
        assert [(a["channel"], a["expose"]) for a in (known, phone, tv)] == [
            *(("search", False), ("video", True), ("search", True))
        ]
        assert {a["propensity"] for a in (known, phone, tv)} == {1.0} and not h.arm.asked
        assert phone["reservation_id"] is not None and known["reservation_id"] is None
        policy = only(h.router.live).arm("incumbent")
        for record in h.records():
            assert record["model_name"] == "rule" and record["model_digest"] == policy.rule_digest
            assert record["channel_probs"] == {c: float(c == record["channel"]) for c in record["candidates"]}
            assert record["exposure_probs"][record["channel"]] == float(record["expose"])
            values = record["context"] | record["features"]["static"]
            row = first_fit(policy.policy, values, record["candidates"])  # type: ignore[arg-type]
            assert row is not None and (row.channel, row.expose) == (record["channel"], record["expose"])

    run(scenario, tmp_path, changes=arms(*ROWS))


def test_columns_of_the_user_need_the_feature_store_and_columns_of_the_context_do_not(tmp_path: Path) -> None:
    async def by_user(h: Harness) -> None:
        h.features.fault = OSError("gone")
        (answer,) = await h.predict()
        assert (answer["fallback_reason"], answer["expose"]) == ("features", False)

    async def by_context(h: Harness) -> None:
        h.features.fault = OSError("gone")
        (answer,) = await h.predict()
        assert (answer["fallback_reason"], answer["channel"]) == (None, "video")

    run(by_user, tmp_path, changes=arms(*ROWS))
    run(by_context, tmp_path, changes=arms(*ROWS[1:]))


def test_edited_rows_are_in_force_at_once_and_another_model(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        assert (await h.predict())[0]["channel"] == "video"
        before = only(h.router.live)
        draft = h.folder / "experiment.draft"
        draft.write_text(yaml.safe_dump(experiment("http://nowhere", **arms({"channel": "tv"}))))
        draft.replace(h.folder / "experiment.yaml")
        await h.until(lambda: "arms[0].policy[0].channel: 'tv'" in h.router.health.parts.get("experiment", ""))
        assert only(h.router.live) is before
        draft.write_text(yaml.safe_dump(experiment("http://nowhere", **arms({"channel": "search"}))))
        draft.replace(h.folder / "experiment.yaml")
        await h.until(lambda: only(h.router.live) is not before)
        (answer,) = await h.predict()
        assert answer["channel"] == "search" and answer["model"]["digest"] != before.arm("incumbent").rule_digest
        assert "the verdict judges what the newest models decided" in h.router.health.parts["test/" + answer["arm"]]

    run(scenario, tmp_path, changes=arms({"channel": "video"}))
