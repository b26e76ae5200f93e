"""Helpers for tests of the handlers: a tiny network, TorchServe's requests, and a real artifact."""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mtorl.log.dataset import DatasetSpec
from mtorl.policy.decision import Forecast, PolicyParams
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch
from serving.handlers.policy_handler import PolicyHandler

SPEC = DatasetSpec.from_dict(
    {
        "name": "small",
        "description": "three channels",
        "adapter": "touchpoints",
        "channels": ["search", "social", "video"],
        "context": [{"name": "hour", "kind": "numeric"}, {"name": "device", "kind": "categorical"}],
        "static": [{"name": "region", "kind": "categorical", "missing": "unknown"}],
        "segment": "region",
        "reward": {"gain": "click"},
        "propensity": "logged",
        "currency": "EUR",
        "window": 3,
    }
)
POLICY = PolicyParams(advantage_weight=1.0, exploration=0.1, price=0.1)
NAN_HOUR = 99.0  # at this hour the network fails


class Network:
    """A network that counts its calls, with logits that depend only on a window's last hour."""

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, batch: WindowBatch) -> tuple[Any, Any, Any]:
        self.calls += 1
        hour_B = np.asarray(batch.context["hour"])[np.cumsum(batch.length_B) - 1]
        hour_B = np.nan_to_num(hour_B)
        logits_BC = np.stack([hour_B / 10, np.zeros(len(batch)), -hour_B / 10], axis=1)
        logits_BC[hour_B == NAN_HOUR, 1] = np.nan
        return logits_BC, np.full_like(logits_BC, 0.05), np.full_like(logits_BC, 0.2)


class Context:
    def __init__(self, explain: Sequence[int] = ()) -> None:
        self.model_name = "challenger"
        self.explain = explain
        self.status: dict[int, int] = {}
        self.content_type: dict[int, str] = {}

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        self.status[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.content_type[idx] = value

    def get_request_header(self, idx: int, key: str) -> str | None:
        return "True" if key == "explain" and idx in self.explain else None

    def get_request_id(self, idx: int) -> str:
        return f"request-{idx}"


def forecast(logits: Any, reward: Any, cost: Any, future: Any = None) -> Forecast:
    """Return a forecast whose rewards are scaled to the range from 0 to 2."""
    return Forecast(logits, 2 * reward, cost, future)


def made(predict: Any = None) -> Any:
    handler, says = PolicyHandler(), predict or Network().predict
    handler.artifact = SimpleNamespace(  # type: ignore[assignment]
        spec=SPEC,
        policy=POLICY,
        encoder=SimpleNamespace(unreward=lambda reward, cost: 2 * reward),
        predict=lambda batch: says(batch)[:3],
        forecast_with_state=lambda batch: (forecast(*says(batch)), None),
    )
    handler.model = {"name": "challenger", "version": "abc", "digest": "abcdef"}
    return handler


def loaded(folder: Path) -> Any:
    handler = PolicyHandler()
    handler.load(folder)
    return handler


def window(hour: float | None = 10.0) -> dict[str, Any]:
    return {
        "timestamp": 7_200_000_000,
        "prev_channel": [None, "search"],
        "prev_timestamp": [None, 3_600_000_000],
        "prev_click": [0, 1],
        "prev_conversion": [0, 0],
        "prev_revenue": [0.0, 0.0],
        "prev_cost": [0.0, 0.3],
        "context": {"hour": [9.0, hour], "device": ["phone", None]},
        "static": {"region": "north"},
    }


def item(hour: float | None = 10.0, u: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"window": window(hour), "u": u, **more}


def v1(*items: Any) -> dict[str, Any]:
    return {"body": json.dumps({"instances": list(items)}).encode()}


def v2(*texts: str, request_id: str | None = None, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "instances", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts), **changes}
    return {"body": json.dumps({"inputs": [tensor], **({"id": request_id} if request_id else {})}).encode()}


def ask(handler: PolicyHandler, *requests: dict[str, Any], explain: Sequence[int] = ()) -> tuple[list[Any], Context]:
    context = Context(explain=explain)
    bodies = handler.handle(list(requests), context)
    assert len(bodies) == len(requests)
    return [json.loads(body) for body in bodies], context


def save_policy(folder: Path, network: Any, encoder: Encoder, spec: DatasetSpec, **fields: Any) -> Any:
    import pandas as pd

    from mtorl.artifact.saving import TrainedPolicy, save

    policy = {
        "params": POLICY,
        "reference": pd.DataFrame({"user_id": ["a"], "hour": [1.0]}),
        "training_users": np.array([], dtype=np.uint64),
        **fields,
    }
    rest = {"cost_cap": dict.fromkeys(spec.channels, 1.0), "default_channel": spec.channels[0], "metrics": {}}
    origin = {"kind": "mtorl", "data_fingerprint": "none", "git_revision": "none"}
    made = TrainedPolicy(name=folder.name, network=network, encoder=encoder, spec=spec, **policy, **rest, **origin)
    return save(folder, made)


def save_artifact(folder: Path) -> Any:
    import torch

    from mtorl.network.ensemble import Ensemble
    from mtorl.network.future_value import FutureValue
    from mtorl.network.model import MTORL, MTORLConfig
    from mtorl.network.user_state import fit_state_distance

    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = WindowBatch.from_instances([window(float(hour)) for hour in range(24)], SPEC)
    encoder = Encoder.fit(batch, SPEC)
    config = MTORLConfig(inputs=encoder.dim, channels=3, window=SPEC.window, outcomes=2)
    network = Ensemble([MTORL(config)]).eval()
    fit_state_distance(network, encoder, batch)
    network.future = FutureValue(network.networks).eval()
    return save_policy(folder, network, encoder, SPEC)


def call(url: str, body: bytes | None = None, content_type: str = "application/json") -> tuple[int, Any]:
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
