"""Settings of all tests."""

import os

from hypothesis import settings

# Timing decides no test. CI tries the same examples every time; elsewhere each run looks at new ones.
settings.register_profile("project", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("project")
