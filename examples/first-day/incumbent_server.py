"""The rule of `incumbent.py` as an HTTP endpoint, with nothing but Python's own library.

    python incumbent_server.py --port 8070

A router posts `{"instances": [item, ...]}`, and takes a list of decisions, one for each item, in the same order.
"""

import argparse
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import incumbent


def answer(item: dict[str, Any]) -> dict[str, Any]:
    """The rule's decision: `channel` and `expose` are all that an answer needs.

    The rest says with what probabilities it decides so. With them, other policies can be valued on what it has decided.
    """
    rule, offered = incumbent.decide(item["context"]), item["candidates"]
    if rule["channel"] not in offered:  # never answer what is not on offer
        rule = {"channel": offered[0], "expose": False}
    certain = {channel: float(channel == rule["channel"]) for channel in offered}
    return {**rule, "channel_probs": certain, "exposure_probs": dict.fromkeys(offered, float(rule["expose"]))}


class Handler(BaseHTTPRequestHandler):
    """Answers each item by the rule, or by another function from an item to a decision."""

    answer = staticmethod(answer)
    protocol_version = "HTTP/1.1"  # connections stay open: a router asks often
    disable_nagle_algorithm = True  # an answer goes out at once, though it is written in two parts

    def do_POST(self) -> None:
        """A decision for each item."""
        items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        body = json.dumps([self.answer(item) for item in items]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-model-name", "our-rule")
        self.send_header("x-model-version", "2024-03")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


def main(answer: Callable[[dict[str, Any]], dict[str, Any]] = answer) -> None:
    """Serve decisions on items, by default the rule's, until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve the rule of incumbent.py.")
    parser.add_argument("--port", type=int, default=8070)
    args = parser.parse_args()
    Handler.answer = staticmethod(answer)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    print(f"our rule answers at http://127.0.0.1:{server.server_port}/decide", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
