"""The decorator of every component: image, install policy, and traits for pipelines and progress bars.

    @component("score both policies on test users")
    def evaluate(windows: Input[Dataset], seed: int, metrics: Output[Metrics]): ...

The image contains the project. Nothing is installed when a step starts (``packages_to_install=[]``), and the body of a
component only calls other rooms. On a cluster, the image's reference is part of the cache key, so deploy a digest
rather than a tag that moves.

A step runs the component's file from the image. By default, KFP would embed the function's text in the workflow, where
Argo stores the text seven times. Argo compresses a workflow of more than 1 MiB, and Kubeflow Pipelines can't read a
compressed workflow (https://github.com/kubeflow/pipelines/issues/6547). It would not show the rest of the run, not even
a failure. For the same reason, descriptions are not in the workflow, but only here and in each component's README.
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
    """Traits of a component.

    Attributes:
        title: A few words for a progress bar.
        cached: Whether a run may reuse the outputs of an earlier run with equal inputs; False if the step writes
            anything but its outputs, or reads data that changes.
        trains: Whether the step is worth an accelerator, and long enough for a time limit and for retries that resume
            from a checkpoint.
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
    """Turn a function into a KFP component; the parameters are those of `StepTraits`."""

    def decorate(function: Callable[..., Any]) -> Any:
        if not hasattr(dsl, "component"):  # in a step's image, which contains only a part of KFP
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
    """Return the traits of a component by name, such as "build-features"; an unknown name is its own title."""
    return _TRAITS.get(name, StepTraits(name))
