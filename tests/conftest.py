"""Settings for all tests."""

import importlib.util
import inspect
import os
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from traceback import walk_stack
from typing import Any

import pytest
from hypothesis import settings

# One thread for numerics in each process, including those that tests start. More tests run at once than there are
# cores and their computations are small, so a second thread would spin while it waits for the first.
# Libraries read these variables when they are loaded.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

# Spark's virtual machine lives for less than a minute in a test: the full optimising compiler, which uses extra
# threads, would not pay off.
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")

# KFP calls `inspect.stack` for each setting of a step. Looking up the source of every frame took most of the compile
# time under pytest-xdist, where some frames have no file.
inspect.stack = lambda context=1: [
    inspect.FrameInfo(frame, frame.f_code.co_filename, line, frame.f_code.co_name, None, None)
    for frame, line in walk_stack(sys._getframe(1))
]

OURS = ("mtorl", "features", "serving", "monitoring", "components", "pipelines", "cli", "benchmarks", "tests")


class SkipWithoutTorch(MetaPathFinder):
    """Skips the test or file that imports torch: CI leaves out its gigabytes on additional Python versions.

    If a library such as Feast tries the import, it gets the usual ImportError; a skip would leave it half imported.
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
    """Set the number of examples in a property test: a tenth of the full number, unless `--all` is given.

    There is no deadline. CI always uses the same examples; elsewhere each run draws new ones.
    """
    examples = 100 if config.getoption("--all") else 10
    settings.register_profile(
        "project", deadline=None, derandomize="CI" in os.environ, print_blob=True, max_examples=examples
    )
    settings.load_profile("project")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run all component tests in one process: they share a trained policy, which takes half a minute to build."""
    from xdist.scheduler import LoadFileScheduling

    found = LoadFileScheduling(config, log)
    found._split_scope = lambda test: "components" if test.startswith("tests/components/") else test.split("::")[0]
    return found if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked `long`, unless `--all`, `-m` or their file's name selects them, and run those first.

    If they ran last, one process would still be busy after the others have finished.
    """
    named = {Path(word.split("::")[0]).resolve() for word in config.args}
    if not config.getoption("--all") and "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long") and item.path not in named]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    with_long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in with_long)
