import asyncio
import importlib.util
import inspect
import os
import signal
import sys
from functools import wraps
from importlib.abc import MetaPathFinder
from pathlib import Path
from traceback import walk_stack
from typing import Any

import pytest
from hypothesis import settings

# Set these before any import: tests run in parallel, so numeric libraries should use one thread each.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# Spark's JVM runs for less than a minute, which is too short for its optimising compiler to pay off.
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

# KFP calls `inspect.stack` for each setting of a step. Leave out the source lines, because they take long to read.
inspect.stack = lambda context=1: [
    inspect.FrameInfo(frame, frame.f_code.co_filename, line, frame.f_code.co_name, None, None)
    for frame, line in walk_stack(sys._getframe(1))
]

# A shell without a terminal ignores SIGINT for background commands, and subprocesses would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

OURS = ("mtorl", "features", "serving", "monitoring", "components", "pipelines", "cli", "benchmarks", "tests")


class SkipWithoutTorch(MetaPathFinder):
    """Skips a test whose project code imports torch while torch is not installed.

    A library that imports torch gets the usual ImportError, because a skip would leave the library half imported.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torch" and _importer().split(".")[0] in OURS:
            pytest.skip("torch is not installed", allow_module_level=True)


def _importer() -> str:
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("importlib.", "_frozen_importlib")):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


if importlib.util.find_spec("torch") is None:
    sys.meta_path.append(SkipWithoutTorch())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also tests marked `long`, and every example of a property")


def pytest_configure(config: pytest.Config) -> None:
    """Set how many examples a property test tries. CI always tries the same examples."""
    examples = 100 if config.getoption("--all") else 10
    settings.register_profile(
        "project", deadline=None, derandomize="CI" in os.environ, print_blob=True, max_examples=examples
    )
    settings.load_profile("project")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Run a coroutine test in its own event loop."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(test := item.obj):
        item.obj = wraps(test)(lambda **given: asyncio.run(test(**given)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run all component tests in one process, because they share a model that takes half a minute to train."""
    from xdist.scheduler import LoadFileScheduling

    found = LoadFileScheduling(config, log)
    found._split_scope = lambda test: "components" if test.startswith("tests/components/") else test.split("::")[0]
    return found if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `long` unless they are selected.

    Files with long tests run first, so that they don't delay the end of a parallel run.
    """
    named = {Path(word.split("::")[0]).resolve() for word in config.args}
    if not config.getoption("--all") and "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long") and item.path not in named]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    with_long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in with_long)
