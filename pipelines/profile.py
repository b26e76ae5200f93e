"""Profiles: settings that a laptop or a cluster gives to each step of a pipeline."""

import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl import PipelineTask

from components.component import IMAGE, StepTraits, traits_of
from components.notify.component import notify
from components.notify.run_end import NODE
from components.trainer.train_job import POD_NAME, POD_UID, Pods
from mtorl.runtime import run_notes

_RETRIES, _TRAINING_RETRIES = 2, 3
_MARGIN_SECONDS = 300
MOUNT = "/mnt/mtorl"
"""Where the volume lies in every step on a cluster."""

EXPERIMENT_MOUNT = "/etc/mtorl/experiment"
"""Where the router's experiments lie in a step on a cluster: a file each, as the router reads them."""

MODEL_REGISTRY_VARIABLES = ("MTORL_MODEL_REGISTRY", "MTORL_MODEL_REGISTRY_TOKEN")
"""Of the environment of the step that publishes, and keys of the Secret that they come from."""


class ProfileError(SystemExit):
    """The environment sets a profile that can't be."""


def number_in(variable: str, least: int) -> int:
    """A whole number of the environment when pipelines are compiled; 1 if it is not set."""
    text = os.environ.get(variable, "1")
    if not text.isdecimal() or int(text) < least:
        raise ProfileError(f"mtorl: {variable} must be a whole number of at least {least}, got {text!r}")
    return int(text)


@dataclass(frozen=True)
class Resources:
    """Requests and limits of a step's container, in Kubernetes' units.

    Memory has no other limit than its request: a node that runs out of memory first evicts pods that use more than
    that, and KFP retries an evicted step only if the platform says so (docs/pipelines.md).
    """

    memory: str
    cpu: str = "500m"
    cpu_limit: str = "2"


@dataclass(frozen=True)
class Profile:
    """Where a pipeline runs, and with what.

    Attributes:
        folder: Where everything lies that outlives a run; "" for nowhere.
        gpus: The most accelerators of a node that a training uses; 0 leaves it on the CPU.
        nodes: The most nodes that a training uses. With one GPU or none on one node, the step itself trains. With more,
            Kubeflow Trainer trains in pods of their own (`components.trainer`), as many as the size of the data is
            worth.
        timeout_seconds: Longest run of a step that trains; 0 for no limit.
        deadline_seconds: Longest run of a pipeline, from its start; 0 for no limit. It also ends a run whose pods find
            no node, which no limit of a step does.
        volume: Claim that is mounted at `folder` in every step; empty for none.
        experiment: ConfigMap of the running experiment, mounted at `EXPERIMENT_MOUNT` in every step that wants it.
        model_registry: Secret with the address and token of a Kubeflow Model Registry, optional (docs/registry.md).
        node_selector: Labels of nodes for trainings.
        user: Numeric user of the steps; 0 leaves the pod's default.
        small: Of a step that neither trains nor reads the whole log; None for no requests and limits.
        large: Of a step that reads the whole log.
        training: Of a step that trains.
    """

    folder: str = ""
    gpus: int = 0
    nodes: int = 1
    gpu_resource: str = "nvidia.com/gpu"
    timeout_seconds: int = 0
    deadline_seconds: int = 0
    volume: str = ""
    experiment: str = ""
    model_registry: str = ""
    node_selector: dict[str, str] = field(default_factory=dict)
    user: int = 0
    small: Resources | None = None
    large: Resources | None = None
    training: Resources | None = None

    @property
    def runs(self) -> str:
        """Folder in which the newest run of each pipeline is kept; "" for none."""
        return self.on_volume("runs")

    def on_volume(self, name: str) -> str:
        """A path below the folder, for what outlives a run; "" for nowhere."""
        return f"{self.folder}/{name}" if self.folder else ""

    @property
    def training_pods(self) -> str:
        """Settings of the pods that train in place of a step, as its parameter; "" if the step trains."""
        if not self._trains_in_pods:
            return ""
        if self.training is None or not self.volume:
            raise ValueError("a training in pods of its own needs a volume, and resources of a step that trains")
        pods = Pods(
            nodes=self.nodes,
            gpus=self.gpus,
            image=IMAGE,
            claim=self.volume,
            folder=self.folder,
            user=self.user,
            gpu_resource=self.gpu_resource,
            cpu=self.training.cpu,
            cpu_limit=self.training.cpu_limit,
            memory=self.training.memory,
            # Trainer says why; the step's own limit would end it without a word.
            seconds=max(self.timeout_seconds - _MARGIN_SECONDS, 60) if self.timeout_seconds else 0,
            node_selector=self.node_selector,
        )
        return pods.text()

    @property
    def _trains_in_pods(self) -> bool:
        return self.gpus > 1 or self.nodes > 1

    def pipeline_config(self) -> dsl.PipelineConfig:
        """Settings of a pipeline as a whole."""
        return dsl.PipelineConfig(active_deadline_seconds=self.deadline_seconds or None)

    def step(self, task: PipelineTask) -> PipelineTask:
        """Apply the profile, and the traits of the component, to a step; returns the step."""
        traits = traits_of(task.component_spec.name)
        if not traits.cached:
            task.set_caching_options(False)
        if traits.trains:
            self._train(task)
        if resources := self._resources(traits):
            task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu_limit)
            task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
        if self.volume:
            kubernetes.mount_pvc(task, pvc_name=self.volume, mount_path=self.folder)
            # Without a policy, which is the platform's (docs/pipelines.md), and never after wrong input.
            retries = _TRAINING_RETRIES if traits.trains else _RETRIES
            task.set_retry(retries, backoff_duration="10s", backoff_factor=2, backoff_max_duration="300s")
            task.set_env_variable(run_notes.RUNS, self.runs)
            kubernetes.use_field_path_as_env(task, run_notes.RUN_ID, "metadata.labels['pipeline/runid']")
        if self.user:
            kubernetes.set_security_context(task, run_as_user=self.user, run_as_group=self.user, run_as_non_root=True)
        return task

    def add(self, component: Any, given: SimpleNamespace, **more: Any) -> PipelineTask:
        """Add a step; an input that is not in `more` is the pipeline's parameter of the same name."""
        inputs = component.component_spec.inputs or {}
        named = {name: value for name, value in vars(given).items() if name in inputs}
        return self.step(component(**{**named, **more}))

    def exit_handler(self, pipeline: str) -> dsl.ExitHandler:
        """A group of steps after which, whatever happens in it, the step `notify` keeps how the run ended."""
        task = notify(pipeline=pipeline, runs=self.runs)
        if self.volume:
            kubernetes.use_field_path_as_env(task, NODE, "metadata.annotations['workflows.argoproj.io/node-name']")
        return dsl.ExitHandler(self.step(task))

    def with_experiment(self, task: PipelineTask) -> PipelineTask:
        """Mount the running experiment in a step; returns the step."""
        if self.experiment:
            # Optional, so that a missing one is an error of the step, with words, and not a pod that never starts.
            kubernetes.use_config_map_as_volume(task, self.experiment, EXPERIMENT_MOUNT, optional=True)
        return task

    def with_model_registry(self, task: PipelineTask) -> PipelineTask:
        """Give a step the environment in which it registers a published version."""
        if self.volume:
            task.set_env_variable("MTORL_CLAIM", self.volume)
        if self.model_registry:
            keys = {name: name for name in MODEL_REGISTRY_VARIABLES}
            kubernetes.use_secret_as_env(task, self.model_registry, keys, optional=True)
        return task

    def _resources(self, traits: StepTraits) -> Resources | None:
        if traits.trains and not self._trains_in_pods:
            return self.training
        return self.large if traits.reads_log else self.small

    def _train(self, task: PipelineTask) -> None:
        if self._trains_in_pods:
            kubernetes.use_field_path_as_env(task, POD_NAME, "metadata.name")
            kubernetes.use_field_path_as_env(task, POD_UID, "metadata.uid")
        else:
            if self.gpus:
                task.set_accelerator_type(self.gpu_resource).set_accelerator_limit(self.gpus)
                kubernetes.add_toleration(task, key=self.gpu_resource, operator="Exists", effect="NoSchedule")
            for label, value in self.node_selector.items():
                kubernetes.add_node_selector(task, label, value)
        if self.timeout_seconds:
            kubernetes.set_timeout(task, self.timeout_seconds)


def on_cluster(gpus: int, nodes: int = 1) -> Profile:
    """The profile of a cluster, whose trainings use up to so many GPUs of each of so many nodes; 0: its CPUs."""
    return Profile(
        folder=MOUNT,
        gpus=gpus,
        nodes=nodes,
        timeout_seconds=6 * 3600,
        deadline_seconds=12 * 3600,
        volume="mtorl-data",
        experiment="mtorl-experiment",
        model_registry="mtorl-model-registry",
        user=10001,
        small=Resources("2Gi", cpu="250m"),
        large=Resources("4Gi"),
        training=Resources("16Gi", cpu="4", cpu_limit="8") if gpus else Resources("4Gi", cpu="1", cpu_limit="4"),
    )


LAPTOP = Profile()
CLUSTER = on_cluster(number_in("MTORL_GPUS", 0), number_in("MTORL_NODES", 1))
