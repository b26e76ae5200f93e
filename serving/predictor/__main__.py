"""Serve models without TorchServe: `python -m serving.predictor --artifact FOLDER --name challenger`."""

import argparse
import gc
import logging
import socket
import sys
from pathlib import Path

_GRACE_SECONDS = 10  # for requests in flight at shutdown


def main() -> int:
    """Serve until SIGTERM or SIGINT; returns exit status 2 for an invalid artifact or address."""
    parser = argparse.ArgumentParser(prog="python -m serving.predictor", description="A policy on KServe's own server.")
    add, default = parser.add_argument, "(default: %(default)s)"
    add("--artifact", required=True, action="append", type=Path, metavar="FOLDER", help="may be repeated, like --name")
    add("--name", required=True, action="append", help="name of the model in the URL /v1/models/NAME:predict")
    add(
        "--host",
        default="127.0.0.1",
        help="0.0.0.0 in a pod. With a slash, the path of a Unix socket for a router on the same host. Its endpoint is "
        f"http+unix://%%2Fpath%%2Fto%%2Fit. Permissions of its folder control access. {default}",
    )
    add("--port", type=_port, default=8080, help=default)
    arguments = parser.parse_args()
    if len(set(arguments.name)) != len(arguments.artifact):
        parser.error("give a different --name for each --artifact")
    path = Path(arguments.host) if "/" in arguments.host else None

    from mtorl.artifact.artifact import ArtifactError
    from serving.kserve_sdk import CannotListen, Server, application, quiet
    from serving.predictor.predictor import Predictor

    def stop(why: object) -> int:
        logging.getLogger("serving.predictor").critical("predictor: %s", why)
        return 2

    quiet()
    models = [Predictor(name, folder) for name, folder in zip(arguments.name, arguments.artifact, strict=True)]
    try:
        for model in models:
            model.load()
    except ArtifactError as error:
        return stop(error)
    if path is not None and answers(path):
        return stop(f"another process answers at {path}")
    # Garbage collection of these objects would delay requests by 0.1 s.
    gc.collect()
    gc.freeze()
    try:
        Server(application(models), arguments.host, arguments.port, _GRACE_SECONDS).serve_until_stopped()
    except CannotListen as error:
        return stop(error)
    if path is not None:
        path.unlink(missing_ok=True)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"expected a port, 0 to 65535, got {text!r}")
    return int(text)


def answers(path: Path) -> bool:
    """Whether a process listens on a Unix socket, whose file a killed process leaves."""
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(str(path))
        except OSError:
            return False
        return True


if __name__ == "__main__":
    sys.exit(main())
