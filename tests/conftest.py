"""Settings of all tests."""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder

import pytest
from hypothesis import settings

# Timing decides no test. CI tries the same examples every time; elsewhere each run looks at new ones.
settings.register_profile("project", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("project")


class SkipWithoutTorch(MetaPathFinder):
    """Skips the test, or the whole file, that imports torch: CI leaves out its gigabytes on further Pythons."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torch":
            pytest.skip("torch is not installed", allow_module_level=True)


if importlib.util.find_spec("torch") is None:
    sys.meta_path.append(SkipWithoutTorch())
