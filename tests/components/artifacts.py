"""Names shared by the tests of components."""

from collections.abc import Callable

from kfp.dsl import Artifact

USERS = 300
"""Number of users in the simulated log that the components read."""

ROUNDS = 25
"""Rounds in which all users are served: enough opportunities for every part of the split."""

CODE = "test"
"""Version of the code that the pipeline passes to components."""

Output = Callable[[type[Artifact], str], Artifact]
"""The fixture `output`: creates an empty output artifact of a type and name, as KFP passes it to a component."""
