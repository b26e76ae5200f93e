"""Loads an archive as TorchServe does and requests decisions, to find a faulty archive early."""

import tempfile
import zipfile
from pathlib import Path

from mtorl.runtime.errors import InputError
from serving.handlers.items import empty_window
from serving.handlers.policy_handler import PolicyHandler

_U = (0.0, 0.25, 0.5, 0.75, 0.999)  # the uniform numbers that draw a channel


class SmokeError(InputError, RuntimeError):
    """Raised if an archive's model does not load or decide."""


def check_archive(archive: Path) -> str:
    """Request test decisions from an archive's model; returns a summary of the first one."""
    handler = PolicyHandler()
    try:
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as content:
            content.extractall(folder)
            handler.load(Path(folder) / "artifact")
            channels = handler.artifact.spec.channels
            window = empty_window(handler.artifact.spec)
            items = [{"window": window, "u": u} for u in _U]
            items += [{"window": window, "u": 0.5, "candidates": [channel]} for channel in channels]
            answers = handler.predictions(items)
    except Exception as error:  # a damaged archive may cause any exception
        raise SmokeError(f"{archive.name}: its model can't be loaded: {type(error).__name__}: {error}") from error
    for answer in answers:
        if "error" in answer:
            raise SmokeError(f"{archive.name}: no decision for a user without history: {answer['error']}")
        total = sum(answer["channel_probs"].values())
        if abs(total - 1.0) > 1e-6:
            raise SmokeError(f"{archive.name}: the probabilities of channels add up to {total:.6f}")
    alone = [answer["channel"] for answer in answers[len(_U) :]]
    if alone != list(channels):
        raise SmokeError(f"{archive.name}: with one candidate ({', '.join(channels)}), it chose {', '.join(alone)}")
    first = answers[0]
    return f"{first['channel']} of {len(channels)} channels, digest {first['model']['digest'][:12]}"
