"""Settings for all tests."""

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

# Numeric libraries use one thread in each process, including subprocesses of tests. Tests run in parallel on all cores
# and compute little, so further threads would only wait for a free core and burn CPU time meanwhile.
# Set the variables before any import, because the libraries read them when they are loaded.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# Spark's Java virtual machine runs for less than a minute in a test. The full optimising compiler would not pay off in
# that time, and it would use extra threads.
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

# KFP calls `inspect.stack` for each setting of a pipeline step. This replacement does not read the frames' source code,
# which took most of the time of compiling a pipeline under pytest-xdist, where some frames have no file.
inspect.stack = lambda context=1: [
    inspect.FrameInfo(frame, frame.f_code.co_filename, line, frame.f_code.co_name, None, None)
    for frame, line in walk_stack(sys._getframe(1))
]

# A shell without a terminal starts background commands with SIGINT ignored. Subprocesses of tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

OURS = ("mtorl", "features", "serving", "monitoring", "components", "pipelines", "cli", "benchmarks", "tests")


class SkipWithoutTorch(MetaPathFinder):
    """Skips a test, or a test file, whose project code imports torch while torch is not installed.

    CI does not install torch (gigabytes) on additional Python versions. A library such as Feast that tries to import
    torch gets the usual ImportError, because a skip would leave the library half imported.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torch" and _importer().split(".")[0] in OURS:
            pytest.skip("torch is not installed", allow_module_level=True)


def _importer() -> str:
    """Return the name of the module that executes the current import statement."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("importlib.", "_frozen_importlib")):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


if importlib.util.find_spec("torch") is None:
    sys.meta_path.append(SkipWithoutTorch())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--all`."""
    parser.addoption("--all", action="store_true", help="also tests marked `long`, and every example of a property")


def pytest_configure(config: pytest.Config) -> None:
    """Set how many examples a property test tries: 100 with `--all`, otherwise 10.

    There is no time limit per example. CI always tries the same examples, and other runs draw new ones.
    """
    examples = 100 if config.getoption("--all") else 10
    settings.register_profile(
        "project", deadline=None, derandomize="CI" in os.environ, print_blob=True, max_examples=examples
    )
    settings.load_profile("project")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Run a test that is a coroutine function in its own event loop."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(test := item.obj):
        item.obj = wraps(test)(lambda **given: asyncio.run(test(**given)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run all component tests in one process, because they share a policy whose training takes half a minute."""
    from xdist.scheduler import LoadFileScheduling

    found = LoadFileScheduling(config, log)
    found._split_scope = lambda test: "components" if test.startswith("tests/components/") else test.split("::")[0]
    return found if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `long`, unless `--all`, `-m` or their file's name selects them.

    Files with long tests run first. If they ran last, one process would still be busy after the others have finished.
    """
    named = {Path(word.split("::")[0]).resolve() for word in config.args}
    if not config.getoption("--all") and "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long") and item.path not in named]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    with_long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in with_long)
