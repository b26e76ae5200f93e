"""Serves a policy on KServe's own model server, as an alternative to TorchServe."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from serving import messages
from serving.handlers.policy_handler import PolicyHandler
from serving.handlers.protocol import EXPLAIN, JSON_TYPE, PREDICT, Verb, read_body, read_items, tensor_of
from serving.kserve_sdk import InferenceError, InferOutput, InferRequest, InferResponse, InvalidInput, Model
from serving.predictor.micro_batcher import MicroBatcher

_LARGEST = 64  # most items in one forward pass


class Predictor(Model):
    """A KServe model that answers `:predict` and `:explain` (v1), and `/infer` (v2)."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self._folder = folder
        self.handler = PolicyHandler()
        self._passes = MicroBatcher(lambda items: self.handler.predictions(items), _LARGEST)

    def load(self) -> bool:
        """Load the artifact and warm up the model."""
        self.handler.load(self._folder)
        self.ready = True
        return True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Decide on every instance."""
        return await self._answer(payload, PREDICT, self._passes.submit)

    async def explain(self, payload: Any, headers: Any = None) -> Any:
        """Explain every decision, in a thread, so that the event loop can serve decisions."""
        return await self._answer(payload, EXPLAIN, lambda items: asyncio.to_thread(self.handler.explanations, items))

    async def _answer(
        self, payload: Any, verb: Verb, work: Callable[[list[Any]], Awaitable[list[dict[str, Any]]]]
    ) -> Any:
        items = _items(payload, verb)
        try:
            answers = await work(items)
        except Exception as error:
            raise InferenceError(f"{type(error).__name__}: {error}") from error
        if not isinstance(payload, InferRequest):
            return {verb.v1: answers}
        return InferResponse(
            response_id=payload.id or str(uuid.uuid4()),  # KServe 0.21 answers 500 without one
            model_name=self.name,
            model_version=self.handler.model["version"],
            infer_outputs=[InferOutput(**tensor_of(answers, verb))],
        )


def _items(payload: Any, verb: Verb) -> list[Any]:
    try:
        if isinstance(payload, InferRequest):
            body: Any = payload.to_dict()
        else:
            body = read_body({"body": payload})  # KServe passes text unless the content type is JSON
        if body is None:
            raise ValueError(messages.NO_BODY(type=JSON_TYPE))
        return read_items(body, verb)
    except ValueError as error:
        raise InvalidInput(error.args[0]) from None
