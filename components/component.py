"""The decorator of every component, which sets its image and its traits for pipelines and progress bars.

    @component("score both policies on test users")
    def evaluate(windows: Input[Dataset], seed: int, metrics: Output[Metrics]): ...

The image contains the project, so nothing is installed when a step starts (``packages_to_install=[]``), and the body of
a component only calls other packages. On a cluster, the name of the image is part of the cache key. Therefore deploy
the image by its digest rather than by a tag that moves.

A step runs the component's file from the image. By default, KFP would embed the text of the function in the workflow,
where Argo stores it seven times. Argo compresses a workflow of more than 1 MiB, and Kubeflow Pipelines can't read a
compressed workflow (https://github.com/kubeflow/pipelines/issues/6547): it would no longer show the progress of the
run, not even a failure. For the same reason, the workflow contains no descriptions. They are only here, and in the
README of each component.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kfp import dsl

IMAGE = os.environ.get("MTORL_IMAGE", "ghcr.io/mtorl-kubeflow/train:0.1.0-python3.11")
_RUN = (
    "at=\"$(python3 -c 'import components; print(components.__path__[0])')\"; "
    '_KFP_RUNTIME=true exec python3 -m kfp.dsl.executor_main --component_module_path "$at/$0/component.py" "$@"'
)


@dataclass(frozen=True)
class StepTraits:
    """The properties of a component that determine how pipelines run it and how progress bars show it.

    Attributes:
        title: A few words for a progress bar.
        cached: Whether outputs of an earlier run may be reused. False if the step has side effects or reads changing
            data.
        trains: Whether the step trains a model.
        reads_log: Whether the step reads the whole log, and therefore needs more memory.
    """

    title: str
    cached: bool = True
    trains: bool = False
    reads_log: bool = False


_TRAITS: dict[str, StepTraits] = {}


def component(
    title: str, *, cached: bool = True, trains: bool = False, reads_log: bool = False
) -> Callable[[Callable[..., Any]], Any]:
    """Turn a function into a KFP component. `StepTraits` describes the parameters."""

    def decorate(function: Callable[..., Any]) -> Any:
        # The image of a step contains only a part of KFP, which can't build components.
        if not hasattr(dsl, "component"):
            return function
        kfp_component = dsl.component(function, base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
        spec = kfp_component.component_spec
        spec.implementation.container.command = ["sh", "-ec", _RUN, function.__name__]
        for described in (*(spec.inputs or {}).values(), *(spec.outputs or {}).values()):
            described.description = None
        _TRAITS[kfp_component.name] = StepTraits(title, cached, trains, reads_log)
        return kfp_component

    return decorate


def traits_of(name: str) -> StepTraits:
    """Return the traits of a component by its name, such as "build-features"."""
    return _TRAITS.get(name, StepTraits(name))
