"""What it costs to read a request for decisions: its JSON, and the checks of `serving.router.flow.requests`.

    python benchmarks/request_parsing.py
    python benchmarks/request_parsing.py --quick --json parsing.json

CPU time, the best of 25 rounds; the request has three context columns and an id.
"""

from __future__ import annotations

import argparse
import time
import timeit
from collections.abc import Callable

from _environment import ROOT, environment, finish


def body(instances: int) -> bytes:
    """A request for so many decisions."""
    import orjson

    instance = {"campaign_id": "spring", "context": {"hour": 14, "device": "phone", "placement": "top"}}
    return orjson.dumps(
        {"instances": [{**instance, "user_id": f"u{i}", "request_id": f"r{i}"} for i in range(instances)]}
    )


def microseconds(work: Callable[[], object], calls: int) -> float:
    """CPU time of a call."""
    rounds = timeit.repeat(work, number=calls, repeat=25, timer=time.process_time)
    return round(min(rounds) / calls * 1e6, 1)


def main() -> None:
    """Measure requests of 1 and 64 instances."""
    import orjson

    from mtorl.log.dataset import DatasetSpec
    from serving.router.flow.requests import DecisionParser

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", default="", help="write the figures here as well")
    options.add_argument("--quick", action="store_true", help="fewer calls")
    arguments = options.parse_args()
    spec = DatasetSpec.load(ROOT / "mtorl" / "log" / "datasets" / "simulator.yaml")
    parser = DecisionParser(spec, dict.fromkeys(spec.channels, 1.0))
    figures: dict[str, object] = {"environment": environment("pydantic", "orjson")}
    print("instances   JSON alone, us   JSON and checks, us")
    for instances in (1, 64):
        text, calls = body(instances), (100 if arguments.quick else 2000) // instances + 1
        json_us = microseconds(lambda text=text: orjson.loads(text), calls)
        checked_us = microseconds(lambda text=text: parser.parse(text), calls)
        figures[f"{instances} instances"] = {"json_us": json_us, "checked_us": checked_us}
        print(f"{instances:9}   {json_us:14}   {checked_us:19}")
    finish(figures, arguments.json)


if __name__ == "__main__":
    main()
