"""Serve an artifact without TorchServe: `python -m serving.predictor --artifact FOLDER --name challenger`."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from pathlib import Path


def main() -> int:
    """Serve until SIGTERM or SIGINT; 2 when there is no artifact to serve."""
    parser = argparse.ArgumentParser(prog="python -m serving.predictor", description="A policy on KServe's own server.")
    parser.add_argument(
        "--artifact", required=True, type=Path, metavar="FOLDER", help="written by mtorl.artifact.saving.save"
    )
    parser.add_argument("--name", required=True, help="of the model in the URL: /v1/models/NAME:predict and :explain")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a pod (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="default: %(default)s")
    arguments = parser.parse_args()

    from mtorl.artifact.artifact import ArtifactError
    from serving.kserve_sdk import Server, app, correct, quiet
    from serving.predictor.predictor import Predictor

    quiet()
    model = Predictor(arguments.name, arguments.artifact)
    try:
        model.load()
    except ArtifactError as error:
        logging.getLogger("serving.predictor").critical("predictor: %s", error)
        return 2
    correct(app)
    # What is loaded stays: looking through all of it for garbage would hold up every request for a tenth of a second.
    gc.collect()
    gc.freeze()
    Server(arguments.host, arguments.port, grace_seconds=10).start([model])
    return 0


if __name__ == "__main__":
    sys.exit(main())
