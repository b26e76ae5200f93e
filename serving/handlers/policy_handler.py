"""The TorchServe handler of an arm: JSON in, one forward pass for the whole batch, decisions out.

It is a shell. What a window is, what the network computes and how a channel is chosen live in ``mtorl.windows``,
``mtorl.artifact`` and ``mtorl.decision``; everything specific to this model is read from ``artifact/`` inside the .mar.

    v1   {"instances": [{"window": {...}, "u": 0.42, "candidates": ["search"]?, "price": 0.3?}]}
         -> {"predictions": [{"channel": "search", ...} | {"error": "..."}]}
    v2   {"inputs": [{"name": "instances", "datatype": "BYTES", "shape": [n], "data": ["<an instance as JSON>", ...]}]}
         -> {"outputs": [{"name": "decisions", "datatype": "BYTES", "shape": [n], "data": ["<a decision>", ...]}]}
    GET  an empty body is a readiness probe that goes through the worker

TorchServe hands over the requests of several clients at once, and an exception or a missing answer would fail them all:
an item that cannot be decided gets its own error, a body that cannot be read its own status 400. (TorchServe's built-in
kserve envelopes look at the first request of a batch only, hence both protocols here.)
TorchServe demands that this file define exactly one class.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtorl.artifact import Artifact, load
from mtorl.dataset import OUTCOMES, DatasetSpec
from mtorl.decision import decide
from mtorl.windows import Instance, WindowBatch

log = logging.getLogger(__name__)

MAX_INSTANCES = 256  # in one request; with eight requests a batch this stays well inside the response timeout
MAX_PRICE = 1e9  # gain per currency unit; keeps price * cost finite
JSON_TYPE = "application/json"


class PolicyHandler:
    """Answers decisions from one artifact."""

    artifact: Artifact
    model: dict[str, str]

    def initialize(self, context: Any) -> None:
        """Load the artifact and run it once, so that the first request is as fast as the others."""
        import torch

        # More threads fight each other on shared cores: scale by workers and pods.
        torch.set_num_threads(1)
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_no_chatter)
        self.artifact = load(Path(context.system_properties["model_dir"]) / "artifact")
        self.model = {
            "name": self.artifact.model["name"],
            "version": self.artifact.model["version"],
            "digest": self.artifact.digest,
        }
        for rows in (1, 2, 8, 8):
            answers = self._decide([{"window": _empty_window(self.artifact.spec), "u": 0.5}] * rows)
            if "error" in answers[0]:
                raise RuntimeError(f"the model fails on an empty window: {answers[0]['error']}")

    def handle(self, data: Sequence[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch of requests, one body for each, in order."""
        try:
            return self._answer(data, context)
        except Exception as error:
            log.exception("batch of %d requests failed", len(data))
            for i in range(len(data)):
                context.set_response_status(500, "Internal Server Error", i)
            return [_dump({"error": f"{type(error).__name__}: {error}"})] * len(data)

    def _answer(self, data: Sequence[dict[str, Any]], context: Any) -> list[bytes]:
        answers: list[dict[str, Any]] = []
        asked: list[tuple[int, dict[str, Any], slice]] = []  # request, its body, its share of the items
        items: list[Any] = []
        for i, row in enumerate(data):
            context.set_response_content_type(i, JSON_TYPE)
            answers.append({"ready": True, "model": self.model})
            try:
                if (body := _body(row)) is not None:
                    own = _items(body)
                    asked.append((i, body, slice(len(items), len(items) + len(own))))
                    items += own
            except (ValueError, RecursionError) as error:  # RecursionError: JSON nested a thousand levels deep
                context.set_response_status(400, "Bad Request", i)
                answers[i] = {"error": str(error)}

        decisions = self._decide(items)
        for i, body, share in asked:
            if "inputs" not in body:
                answers[i] = {"predictions": decisions[share]}
                continue
            texts = [_dump(decision).decode() for decision in decisions[share]]
            answers[i] = {
                "id": str(body.get("id") or context.get_request_id(i)),
                "model_name": context.model_name,
                "model_version": self.model["version"],
                "outputs": [{"name": "decisions", "datatype": "BYTES", "shape": [len(texts)], "data": texts}],
            }
        return [_dump(answer) for answer in answers]

    def _decide(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        """A decision or an error for each item; all good ones share one forward pass."""
        spec, policy = self.artifact.spec, self.artifact.policy
        answers: list[dict[str, Any]] = [{}] * len(items)
        knobs: dict[int, tuple[float, list[bool], float]] = {}
        for i, item in enumerate(items):
            try:
                knobs[i] = _knobs(item, spec, policy.price)
            except ValueError as error:
                answers[i] = {"error": str(error)}
        batch, faults = _windows({i: items[i]["window"] for i in knobs}, spec)
        for i, fault in faults.items():
            answers[i] = {"error": f"window: {fault}"}
        rows = [i for i in knobs if i not in faults]
        if not rows:
            return answers

        try:
            logits_BC, reward_BC, cost_BC = self.artifact.predict(batch)
            gain_BC = self.artifact.encoder.unreward(reward_BC, cost_BC)
        except Exception as error:
            log.exception("the model failed")
            for i in rows:
                answers[i] = {"error": f"model: {type(error).__name__}: {error}"}
            return answers
        good_B = np.isfinite(np.stack([logits_BC, gain_BC, cost_BC])).all(axis=(0, 2)) & (cost_BC >= 0).all(axis=1)
        for bad in np.flatnonzero(~good_B):
            answers[rows[bad]] = {"error": "model: its answer is not finite, or a cost is negative"}
        rows = [rows[good] for good in np.flatnonzero(good_B)]
        if not rows:
            return answers

        u, candidates, price = zip(*(knobs[i] for i in rows), strict=True)
        chosen = decide(
            logits_BC[good_B],
            gain_BC[good_B],
            cost_BC[good_B],
            policy,
            np.array(u),
            candidates_BC=np.array(candidates),
            price_BC=np.array(price)[:, None],
        )
        for k, i in enumerate(rows):
            answers[i] = {
                "channel": spec.channels[chosen.channel_B[k]],
                "propensity": float(chosen.propensity_B[k]),
                "channel_probs": dict(zip(spec.channels, chosen.probs_BC[k].tolist(), strict=True)),
                "expected_reward": float(chosen.expected_gain_B[k]),
                "expected_cost": float(chosen.expected_cost_B[k]),
                "expose": bool(chosen.expose_B[k]),
                "utility": float(chosen.utility_B[k]),
                "price": price[k],
                "model": self.model,
            }
        return answers


def _body(row: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON object of a request, None for a readiness probe."""
    body = row.get("body", row.get("data"))
    if body is None:  # curl -d without a content type: TorchServe reads the JSON as the name of a form field
        raise ValueError(f"no body; send JSON with content-type {JSON_TYPE}")
    if isinstance(body, str | bytes | bytearray):
        if not body:
            return None
        try:
            body = json.loads(body, parse_constant=_no_constant)
        except UnicodeDecodeError:
            raise ValueError("the body is not UTF-8 text") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ValueError('the body must be an object with "instances" (v1) or "inputs" (v2)')
    return body


def _items(body: dict[str, Any]) -> list[Any]:
    """The instances of a v1 or v2 request; a v2 text that is not JSON stays text, which is an error of that item."""
    if "inputs" in body:
        tensor = body["inputs"][0] if isinstance(body["inputs"], list) and len(body["inputs"]) == 1 else None
        if not isinstance(tensor, dict) or tensor.get("name") != "instances" or tensor.get("datatype") != "BYTES":
            raise ValueError("inputs must be one tensor named instances with datatype BYTES")
        items = tensor.get("data")
        if not isinstance(items, list) or tensor.get("shape") != [len(items)]:
            raise ValueError("instances: data must be a list, and shape its length")
        items = [_text_item(text) for text in items]
    else:
        items = body.get("instances")
    if not isinstance(items, list) or not 0 < len(items) <= MAX_INSTANCES:
        raise ValueError(f"instances must be a list of 1 to {MAX_INSTANCES} instances")
    return items


def _text_item(text: Any) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, TypeError, RecursionError):
        return text


def _knobs(item: Any, spec: DatasetSpec, usual_price: float) -> tuple[float, list[bool], float]:
    """u, candidates and price of an item."""
    if not isinstance(item, dict) or "window" not in item:
        raise ValueError('an instance must be an object with "window" and "u"')
    u = _number(item.get("u"))
    if not 0 <= u < 1:
        raise ValueError("u must be a number in [0, 1)")
    price = usual_price if item.get("price") is None else _number(item["price"])
    if not 0 <= price <= MAX_PRICE:
        raise ValueError(f"price must be a number from 0 to {MAX_PRICE:g}")
    names = item.get("candidates")
    if names is None:
        names = spec.channels
    elif not isinstance(names, list) or not names or any(name not in spec.channels for name in names):
        raise ValueError(f"candidates must be a list with some of: {', '.join(spec.channels)}")
    return u, [channel in names for channel in spec.channels], price


def _windows(windows: dict[int, Any], spec: DatasetSpec) -> tuple[WindowBatch, dict[int, str]]:
    """The batch of the well-formed windows, and what is wrong with the others.

    They are built together, which is nearly always all there is to do; one by one only to find those at fault.
    """
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


def _empty_window(spec: DatasetSpec) -> Instance:
    """The first decision of a user of whom nothing is known."""
    return {
        "timestamp": 0,
        "prev_channel": [None],
        "prev_timestamp": [None],
        **{f"prev_{outcome}": [0.0] for outcome in OUTCOMES},
        "context": {column.name: [None] for column in spec.context},
        "static": {column.name: None for column in spec.static},
    }


def _number(value: Any) -> float:
    """The number, or NaN, which no comparison lets pass."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.nan


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _dump(answer: Any) -> bytes:
    return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()


def _is_no_chatter(record: logging.LogRecord) -> bool:
    # Written by TorchServe for each batch, and read and logged once more by Java.
    return not str(record.msg).startswith("Backend received inference")
