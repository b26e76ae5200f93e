"""Names shared by the tests of components."""

from collections.abc import Callable

from kfp.dsl import Artifact

USERS = 300
"""Of the simulated log that the components work on."""

ROUNDS = 25
"""In which all of them are served; enough that each part of the split has opportunities to stand on."""

CODE = "test"
"""The version of the code, as the pipeline tells it to components."""

Output = Callable[[type[Artifact], str], Artifact]
"""The fixture `output`: an empty output artifact of a type and a name, as KFP hands it to a component."""
