"""The handler that TorchServe runs: decides on a channel and an exposure, in one forward pass per batch of requests.

    {"window": {...}, "u": 0.42, "candidates": ["search"]?, "price": 0.3 or {"search": 0.3, ...}?,
     "costs": {"search": 0.02, ...}?}
    -> {"channel": "search", "propensity": 0.7, "channel_probs": {...}, "expected_reward": ..., "expected_cost": ...,
        "expose": true, "utility": ..., "price": 0.3, "prices": {"search": 0.3, ...}, "exposure_probs": {...},
        "expected_rewards": {...}, "expected_costs": {...}, "state_distance": 1.1,
        "model": {"name": ..., "version": ..., "digest": ...}}

`price` is the price of the chosen channel. `state_distance` is the user's distance from the users of the training
(`mtorl.network.user_state`), if the artifact can compute it. With a single candidate, the answer is the budget decision
on that channel. An explanation has the terms of the utility, and the effect of each past touchpoint. All data of the
model comes from the folder `artifact/` inside the .mar.

TorchServe passes the requests of several clients at once, and an exception or a missing answer would fail all of them.
So each invalid item gets its own error, and each unreadable body its own status 400. Both protocols are parsed here
because TorchServe's built-in KServe envelopes look only at the first request of a batch. An empty body is a readiness
probe, which shows that the worker answers.

`load`, `predictions` and `explanations` do not depend on TorchServe, and `serving/predictor` calls them as well. The
class comes from the installed package because TorchServe allows only one class in the handler file of a .mar.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtorl.arrays import Bools
from mtorl.artifact.artifact import Artifact, load
from mtorl.artifact.explanation import METHOD, Explanation, explain, touchpoints
from mtorl.log.dataset import DatasetSpec
from mtorl.policy.decision import Forecast, decide
from mtorl.window.window import Instance, WindowBatch
from serving.handlers.items import Asked, empty_window, read_choice
from serving.handlers.protocol import EXPLAIN, JSON_TYPE, PREDICT, Verb, dump, read_body, read_items, tensor_of

log = logging.getLogger(__name__)


class PolicyHandler:
    """Answers TorchServe's requests for decisions and explanations with the model of one artifact."""

    artifact: Artifact
    model: dict[str, str]

    def load(self, folder: Path) -> None:
        """Load the artifact, and run the model a few times, because first runs are slow."""
        self.artifact = load(folder)
        model = self.artifact.model
        self.model = {"name": model["name"], "version": model["version"], "digest": self.artifact.digest}
        for rows in (1, 2, 8, 8):
            answers = self.predictions([{"window": empty_window(self.artifact.spec), "u": 0.5}] * rows)
            if "error" in answers[0]:
                raise RuntimeError(f"the model fails on an empty window: {answers[0]['error']}")
        x_8TD = np.zeros((8, self.artifact.spec.window, self.artifact.encoder.dim), dtype=np.float32)
        for length in self.artifact.lengths:
            self.artifact.network(x_8TD, np.full(8, length))

    def predictions(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """Return a decision or an error for each item, in one forward pass."""
        answers: list[dict[str, Any]] = [{}] * len(items)
        asked: dict[int, Asked] = {}
        for i, item in enumerate(items):
            try:
                asked[i] = read_choice(item, self.artifact.spec, self.artifact.policy.price)
            except ValueError as error:
                answers[i] = {"error": str(error)}
        if not asked:
            return answers
        batch, faults = _windows({i: items[i]["window"] for i in asked}, self.artifact.spec)
        for i, fault in faults.items():
            answers[i] = {"error": f"window: {fault}"}
        rows = [i for i in asked if i not in faults]
        if not rows:
            return answers

        try:
            forecast, distance_B = self.artifact.forecast_with_state(batch)
        except Exception as error:
            log.exception("the model failed")
            return _all_failed(answers, rows, error)
        parts = [np.reshape(part, (len(rows), -1)) for part in forecast if part is not None]
        numbers_BN = np.concatenate(parts, axis=1)
        valid_B: Bools = np.isfinite(numbers_BN).all(axis=1) & (np.asarray(forecast.cost_BC) >= 0).all(axis=1)
        for row in np.flatnonzero(~valid_B):
            answers[rows[row]] = {"error": "model: its answer is not finite, or a cost is negative"}
        rows = [rows[row] for row in np.flatnonzero(valid_B)]
        if rows:
            decisions = self._decisions([asked[i] for i in rows], forecast.rows(valid_B))
            for i, answer in zip(rows, decisions, strict=True):
                answers[i] = {**answer, "model": self.model}
            if distance_B is not None:
                for i, distance in zip(rows, distance_B[valid_B].tolist(), strict=True):
                    answers[i]["state_distance"] = distance if math.isfinite(distance) else None
        return answers

    def _decisions(self, asked: Sequence[Asked], forecast: Forecast) -> list[dict[str, Any]]:
        channels = self.artifact.spec.channels
        most_BC = np.array([choice.most for choice in asked])
        chosen = decide(
            forecast._replace(cost_BC=np.minimum(forecast.cost_BC, most_BC)),
            self.artifact.policy,
            np.array([choice.u for choice in asked]),
            candidates_BC=np.array([choice.candidates for choice in asked]),
            price_BC=np.array([choice.prices for choice in asked]),
        )
        return [
            {
                "channel": channels[channel],
                "propensity": float(chosen.propensity_B[b]),
                "channel_probs": dict(zip(channels, chosen.probs_BC[b].tolist(), strict=True)),
                "expected_reward": float(chosen.expected_gain_B[b]),
                "expected_cost": float(chosen.expected_cost_B[b]),
                "expose": bool(chosen.expose_B[b]),
                "utility": float(chosen.utility_B[b]),
                "price": asked[b].prices[channel],
                "prices": dict(zip(channels, asked[b].prices, strict=True)),
                "exposure_probs": dict(zip(channels, chosen.expose_BC[b].astype(float).tolist(), strict=True)),
                "expected_rewards": dict(zip(channels, chosen.gain_BC[b].tolist(), strict=True)),
                "expected_costs": dict(zip(channels, chosen.cost_BC[b].tolist(), strict=True)),
            }
            for b, channel in enumerate(chosen.channel_B.tolist())
        ]

    def explanations(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """Explain each decision by the terms of its utility, and by the effects of past touchpoints."""
        answers = self.predictions(items)
        rows = [i for i, answer in enumerate(answers) if "error" not in answer]
        if not rows:
            return answers
        channels = [answers[i]["channel"] for i in rows]
        windows = [items[i]["window"] for i in rows]
        try:
            places = [self.artifact.spec.channels.index(channel) for channel in channels]
            explained = explain(self.artifact, windows, places)
        except Exception as error:
            log.exception("a decision can't be explained")
            return _all_failed(answers, rows, error)
        for i, channel, window, why in zip(rows, channels, windows, explained, strict=True):
            figures = np.concatenate([why.reward_K, why.log_prob_K, [why.reward_without_past]])
            if np.isfinite([*figures, why.log_prob_without_past]).all():
                forecast = _utility(answers[i])
                answers[i] = {"channel": channel, **forecast, **_explanation(window, why), "model": self.model}
            else:
                answers[i] = {"error": "model: its answer is not finite without some touchpoint"}
        return answers

    # Called by TorchServe:

    def initialize(self, context: Any) -> None:
        """Load the artifact inside the .mar file."""
        # By default, a worker logs three lines of metrics per request.
        logging.getLogger().setLevel(logging.WARNING)
        self.load(Path(context.system_properties["model_dir"]) / "artifact")

    def handle(self, data: Sequence[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch of requests from TorchServe; returns a body for each, in order."""
        try:
            return self._handle(data, context)
        except Exception as error:
            log.exception("batch of %d requests failed", len(data))
            for i in range(len(data)):
                context.set_response_status(500, "Internal Server Error", i)
            return [dump({"error": f"{type(error).__name__}: {error}"})] * len(data)

    def _handle(self, data: Sequence[dict[str, Any]], context: Any) -> list[bytes]:
        bodies: list[dict[str, Any]] = []
        # index, body, verb, and the items' positions in `items[verb]` of each request
        asked: list[tuple[int, dict[str, Any], Verb, slice]] = []
        items: dict[Verb, list[Any]] = {PREDICT: [], EXPLAIN: []}
        for i, row in enumerate(data):
            context.set_response_content_type(i, JSON_TYPE)
            bodies.append({"ready": True, "model": self.model})
            # TorchServe sets this header for requests for explanations.
            verb = EXPLAIN if context.get_request_header(i, "explain") == "True" else PREDICT
            try:
                if (body := read_body(row)) is not None:
                    own, before = read_items(body, verb), len(items[verb])
                    asked.append((i, body, verb, slice(before, before + len(own))))
                    items[verb] += own
            except ValueError as error:
                context.set_response_status(400, "Bad Request", i)
                bodies[i] = error.args[0].body

        answers = {PREDICT: self.predictions(items[PREDICT]), EXPLAIN: self.explanations(items[EXPLAIN])}
        for i, body, verb, share in asked:
            if "inputs" not in body:
                bodies[i] = {verb.v1: answers[verb][share]}
                continue
            bodies[i] = {
                "id": str(body.get("id") or context.get_request_id(i)),
                "model_name": context.model_name,
                "model_version": self.model["version"],
                "outputs": [tensor_of(answers[verb][share], verb)],
            }
        return [dump(body) for body in bodies]


def _all_failed(answers: list[dict[str, Any]], rows: Sequence[int], error: Exception) -> list[dict[str, Any]]:
    for i in rows:
        answers[i] = {"error": f"model: {type(error).__name__}: {error}"}
    return answers


def _utility(answer: dict[str, Any]) -> dict[str, Any]:
    gain, paid = answer["expected_reward"], answer["price"] * answer["expected_cost"]
    terms = {"gain": gain, "price_times_cost": paid, "added": answer["utility"] - (gain - paid)}
    return {"utility": answer["utility"], "utility_terms": terms}


def _explanation(window: Instance, why: Explanation) -> dict[str, Any]:
    rows = zip(touchpoints(window), why.reward_K.tolist(), why.log_prob_K.tolist(), strict=True)
    return {
        "method": METHOD,
        "expected_reward": why.reward,
        "log_prob": why.log_prob,
        "without_past": {"expected_reward": why.reward_without_past, "log_prob": why.log_prob_without_past},
        "touchpoints": [
            {
                "channel": window["prev_channel"][place],
                "timestamp": window["prev_timestamp"][place],
                "expected_reward": reward,
                "log_prob": log_prob,
            }
            for place, reward, log_prob in rows
        ],
    }


def _windows(windows: dict[int, Any], spec: DatasetSpec) -> tuple[WindowBatch, dict[int, str]]:
    """Convert windows to one batch; returns also the errors of invalid windows."""
    faults: dict[int, str] = {}
    try:
        return WindowBatch.from_instances(list(windows.values()), spec), faults
    except Exception:
        for i, window in windows.items():
            try:
                WindowBatch.from_instances([window], spec)
            except Exception as error:
                faults[i] = str(error).removeprefix("instance 0: ")
    return WindowBatch.from_instances([window for i, window in windows.items() if i not in faults], spec), faults
