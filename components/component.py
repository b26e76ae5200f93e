"""The decorator of every component: image, install policy, and traits for pipelines and progress bars.

    @component("score both policies on test users")
    def evaluate(windows: Input[Dataset], seed: int, metrics: Output[Metrics]): ...

The image holds the project itself; nothing is installed when a step starts (``packages_to_install=[]``), and the body
of a component only calls into the rooms below. The image's reference is part of the cache key on a cluster: deploy a
digest, not a tag that moves.

A step runs the component's file in the image. KFP would send the function's text along, and Argo keeps that text seven
times, in nodes of a workflow that is compressed from 1 MiB on. Kubeflow Pipelines can't read it then
(https://github.com/kubeflow/pipelines/issues/6547): the rest of the run, its failure included, is not shown. So
descriptions stay here, too, and in each component's README.
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
        title: What the step does, in a few words, for a progress bar.
        cached: Whether the same inputs may be answered from an earlier run: False for a step that writes anywhere but
            to its outputs, or that reads what changes.
        trains: Whether it is worth an accelerator, and long enough for a time limit and for retries that resume from a
            checkpoint.
        reads_log: Whether it works on the whole log, and so needs more memory.
    """

    title: str
    cached: bool = True
    trains: bool = False
    reads_log: bool = False


_TRAITS: dict[str, StepTraits] = {}


def component(
    title: str, *, cached: bool = True, trains: bool = False, reads_log: bool = False
) -> Callable[[Callable[..., Any]], Any]:
    """Make a KFP component of a function; the parameters are `StepTraits`."""

    def decorate(function: Callable[..., Any]) -> Any:
        if not hasattr(dsl, "component"):  # inside a step, where KFP has only what a function needs
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
    """Traits by the name of a component, such as "build-features"; an unknown name is its own title."""
    return _TRAITS.get(name, StepTraits(name))
