"""Checks that an HTTP endpoint can serve as an arm of an experiment, by sending it requests as the router does.

    for finding in check_arm("http://my-policy:8080/decide", spec):
        print(finding)

A finding is a fault if the router would ignore the answer, or else a note.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtorl.experiment.arm import Arm
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.errors import InputError
from mtorl.runtime.validation import validated
from serving.messages import NO_REPLAY
from serving.router.flow.arm_client import ArmError
from serving.router.flow.arms import ArmAnswer, Arms, identity, neutral_item
from serving.router.ops.health import Health

SECONDS = 5.0  # timeout of each request

_SHOWN = 300  # most bytes of an invalid answer in a note
_ADAPTER = (
    "a service with its own format of requests and answers needs an adapter of ten lines that names the fields channel "
    "and expose: docs/incumbent.md#if-it-has-its-own-protocol"
)


@dataclass(frozen=True)
class Finding:
    """A fault, which makes the answer invalid, or a note on a missing optional field."""

    fault: bool
    text: str

    def __str__(self) -> str:
        return f"{'fault' if self.fault else 'note '}  {self.text}"


def check_arm(endpoint: str, spec: DatasetSpec, name: str = "challenger") -> list[Finding]:
    """Send ordinary and unusual requests to an endpoint, and list the faults in its answers.

    Without a fault, the list has notes on missing optional fields. To a URL without a path, the path
    `/v1/models/<name>:predict` is appended. Raises InputError if the URL does not begin with http:// or https://.
    """
    url = validated(Arm, {"name": name, "weight": 1.0, "endpoint": endpoint}, InputError).url
    assert url is not None, "an arm with an endpoint has one"
    arms = Arms(spec.channels, Health())
    try:
        return _findings(arms, url, spec)
    finally:
        arms.close()


def _findings(arms: Arms, url: str, spec: DatasetSpec) -> list[Finding]:
    plain = neutral_item(spec)
    (first,) = _predict(arms, url, [plain])
    if isinstance(first, str):
        return [Finding(True, f"an ordinary item: {first}"), *_raw(arms, url, plain)]
    answers = {what: _predict(arms, url, [item])[0] for what, item in _odd_items(plain, spec).items()}
    one, _, same = _predict(arms, url, [plain, {**plain, "user_id": "another"}, plain])
    answers["several items in one call, as under load"] = one
    if faults := [f"{what}: {answer}" for what, answer in answers.items() if isinstance(answer, str)]:
        return [Finding(True, text) for text in faults]
    notes = _unsaid(first, spec.channels)
    again = (first, one, same, *_predict(arms, url, [plain]))
    if len({answer if isinstance(answer, str) else (answer.channel, answer.expose) for answer in again}) > 1:
        notes.append(NO_REPLAY())
    return [Finding(False, text) for text in notes]


def _predict(arms: Arms, url: str, items: Sequence[dict[str, Any]]) -> list[ArmAnswer | str]:
    try:
        answers = arms.predict_at(url, items, SECONDS)
        return [str(answer) if isinstance(answer, ArmError) else answer for answer in answers]
    except TimeoutError:
        return [f"no answer in {SECONDS:g} s"] * len(items)
    except ArmError as error:
        return [str(error)] * len(items)


def _raw(arms: Arms, url: str, item: dict[str, Any]) -> list[Finding]:
    try:
        _, _, said = arms.post(url, [item], SECONDS)
    except (TimeoutError, ArmError):
        return []
    return [Finding(False, f"it answered: {said[:_SHOWN].decode(errors='replace')}"), Finding(False, _ADAPTER)]


def _odd_items(plain: Mapping[str, Any], spec: DatasetSpec) -> dict[str, dict[str, Any]]:
    nothing = {c.name: None if c.missing != "error" else plain["context"][c.name] for c in spec.context}
    odd = {c.name: "\u2603 " * 100 for c in spec.context if c.kind == "categorical"}
    return {
        **{f"candidates {[c]}": {**plain, "candidates": [c]} for c in spec.channels},
        "u just below 1": {**plain, "u": 1 - 2**-53},
        "u of 0": {**plain, "u": 0.0},
        "prices by channel": {**plain, "price": dict.fromkeys(spec.channels, 1e6)},
        "costs and a baseline": {
            **plain,
            "costs": {spec.channels[0]: 0.001},
            "baseline": {"channel": spec.channels[0], "expose": False, "propensity": None},
        },
        "a context in which nothing is known": {**plain, "context": nothing},
        "categories that were never seen": {**plain, "context": {**plain["context"], **odd}},
        "an odd user": {**plain, "user_id": "'; \u00e9\U0001f600 " + "x" * 240, "campaign_id": "\u2028"},
    }


def _unsaid(answer: ArmAnswer, channels: Sequence[str]) -> list[str]:
    texts = []
    if answer.propensity is None:
        texts.append("no propensity: other policies can't be evaluated on this arm's decisions")
    elif not answer.channel_probs.keys() >= set(channels):
        texts.append("no channel_probs of all channels: probabilities are unknown if the router explores")
    if not answer.exposure_probs.keys() >= {c for c in channels if answer.channel_probs.get(c, 1.0) > 0}:
        texts.append("no exposure_probs of all channels: models can't learn from this arm's decisions")
    if answer.expected_reward is None or answer.expected_cost is None:
        texts.append("no expected_reward and expected_cost: a paced budget learns no price from this arm")
    if identity(answer.model) is None:
        texts.append("no model, x-model-name or x-model-version: a verdict can't tell that the model has changed")
    return texts
