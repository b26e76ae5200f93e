"""Serves the rule of `incumbent.py` over HTTP, with only Python's standard library.

    python incumbent_server.py --port 8070

The router posts `{"instances": [item, ...]}`, and gets a list with one decision per item in the same order.
"""

import argparse
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import incumbent


def answer(item: dict[str, Any]) -> dict[str, Any]:
    """Return the rule's decision for one item.

    The router needs only `channel` and `expose`. With the probabilities, the log can also be used to evaluate other
    policies.
    """
    rule, offered = incumbent.decide(item["context"]), item["candidates"]
    if rule["channel"] not in offered:  # the router rejects channels that are not candidates
        rule = {"channel": offered[0], "expose": False}
    certain = {channel: float(channel == rule["channel"]) for channel in offered}
    return {**rule, "channel_probs": certain, "exposure_probs": dict.fromkeys(offered, float(rule["expose"]))}


class Handler(BaseHTTPRequestHandler):
    """HTTP handler that calls `answer` for each item of a request. `main` may replace `answer`."""

    answer = staticmethod(answer)
    protocol_version = "HTTP/1.1"  # keeps connections open, so that the router need not open one for each request
    disable_nagle_algorithm = True  # otherwise TCP would delay the body of an answer, which is sent after its headers

    def do_POST(self) -> None:
        """Answer a request with one decision per item."""
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
        """Write no log line for a request."""


def main(answer: Callable[[dict[str, Any]], dict[str, Any]] = answer) -> None:
    """Serve the decisions of the function `answer` over HTTP until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve the rule of incumbent.py.")
    parser.add_argument("--port", type=int, default=8070)
    args = parser.parse_args()
    Handler.answer = staticmethod(answer)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    print(f"our rule answers at http://127.0.0.1:{server.server_port}/decide", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
