"""Defines profiles: settings that depend on whether a pipeline runs on a laptop or on a cluster."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl import PipelineTask

from components.component import IMAGE, StepTraits, traits_of
from components.notify.component import notify
from components.notify.run_end import NODE
from components.trainer.train_job import GPU, POD_NAME, POD_UID, USER, VOLUME, Pods
from mtorl.runtime.step import RUN_ID, RUNS

EXPERIMENT, MODEL_REGISTRY = "mtorl-experiment", "mtorl-model-registry"
"""Name of the ConfigMap with the active experiments, and name of the optional Secret with the credentials for a
Kubeflow Model Registry."""
LAKE = {name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
"""Environment variables that steps get from the Secret `mtorl-lake`, if the lake is in a bucket
(manifests/components/object-store)."""
TRAINING_SECONDS, PIPELINE_SECONDS = 6 * 3600, 12 * 3600
"""Time limits in seconds for a training step and for a whole pipeline. The second limit also stops a run whose pods
can't be scheduled on any node."""
_RETRIES, _TRAINING_RETRIES = 2, 3
_MARGIN_SECONDS = 300
MOUNT = "/mnt/mtorl"
"""Mount path of the data volume in every step on a cluster."""

EXPERIMENT_MOUNT = "/etc/mtorl/experiment"
"""Mount path of the active experiments in a step on a cluster, one file per experiment."""

MODEL_REGISTRY_VARIABLES = ("MTORL_MODEL_REGISTRY", "MTORL_MODEL_REGISTRY_TOKEN")
"""Environment variables of the step `publish`. The keys of the Secret have the same names."""


class ProfileError(SystemExit):
    """Raised if an environment variable of the profile is invalid."""


def number_in(variable: str, least: int) -> int:
    """Read a whole number from an environment variable, 1 by default."""
    text = os.environ.get(variable, "1")
    if not text.isdecimal() or int(text) < least:
        raise ProfileError(f"mtorl: {variable} must be a whole number of at least {least}, got {text!r}")
    return int(text)


class Resources(NamedTuple):
    """CPU and memory of a step's container, in Kubernetes' units.

    The memory limit equals the request, because a node without free memory first evicts pods that exceed their request.
    """

    memory: str
    cpu: str = "500m"
    cpu_limit: str = "2"


SMALL, LARGE = Resources("2Gi", cpu="250m"), Resources("4Gi")
"""Resources of a small and of a large step. A large step reads the whole log; a small step neither reads it nor trains.
"""


@dataclass(frozen=True)
class Profile:
    """Settings of a laptop or a cluster that runs pipelines.

    Attributes:
        folder: Folder for files that outlive a run. On a cluster, the data volume is mounted there. "" means no folder.
        gpus: Maximum number of GPUs per node for a training. With 0, it uses CPUs.
        nodes: Maximum number of nodes for a training. Several nodes or GPUs train in pods of Kubeflow Trainer.
    """

    folder: str = ""
    cluster: bool = False
    gpus: int = 0
    nodes: int = 1

    @property
    def runs(self) -> str:
        """Return the folder for the results of the newest runs; "" for none."""
        return self.on_volume("runs")

    def on_volume(self, name: str) -> str:
        """Return a path in the persistent folder; "" without a persistent folder."""
        return f"{self.folder}/{name}" if self.folder else ""

    @property
    def training(self) -> Resources:
        """Return the resources of a step or pod that trains."""
        return Resources("16Gi", cpu="4", cpu_limit="8") if self.gpus else Resources("4Gi", cpu="1", cpu_limit="4")

    @property
    def training_pods(self) -> str:
        """Return the settings of the training pods as text; "" if the training step itself trains."""
        if not self._trains_in_pods:
            return ""
        pods = Pods(
            nodes=self.nodes,
            gpus=self.gpus,
            image=IMAGE,
            folder=self.folder,
            **self.training._asdict(),
            # The pods must time out before the step, because only Kubeflow Trainer reports why a training ended.
            seconds=TRAINING_SECONDS - _MARGIN_SECONDS,
        )
        return pods.text()

    @property
    def _trains_in_pods(self) -> bool:
        return self.cluster and (self.gpus > 1 or self.nodes > 1)

    def pipeline(self, name: str, description: str) -> Callable[[Callable[..., Any]], dsl.base_component.BaseComponent]:
        """Return the decorator that turns a function into a pipeline."""
        config = dsl.PipelineConfig(active_deadline_seconds=PIPELINE_SECONDS if self.cluster else None)
        return dsl.pipeline(name=name, description=description, pipeline_config=config)

    def step(self, task: PipelineTask) -> PipelineTask:
        """Configure a step's caching and, on a cluster, its resources, volume, retries and user."""
        traits = traits_of(task.component_spec.name)
        if not traits.cached:
            task.set_caching_options(False)
        if not self.cluster:
            return task
        if traits.trains:
            self._train(task)
        resources = self._resources(traits)
        task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu_limit)
        task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
        kubernetes.mount_pvc(task, pvc_name=VOLUME, mount_path=self.folder)
        kubernetes.use_secret_as_env(task, "mtorl-lake", LAKE, optional=True)
        retries = _TRAINING_RETRIES if traits.trains else _RETRIES
        task.set_retry(retries, backoff_duration="10s", backoff_factor=2, backoff_max_duration="300s")
        task.set_env_variable(RUNS, self.runs)
        kubernetes.use_field_path_as_env(task, RUN_ID, "metadata.labels['pipeline/runid']")
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
        return task

    def add(self, component: Any, given: SimpleNamespace, **more: Any) -> PipelineTask:
        """Add a step to the pipeline. Its other inputs are the pipeline's parameters with the same names."""
        inputs = component.component_spec.inputs or {}
        named = {name: value for name, value in vars(given).items() if name in inputs}
        return self.step(component(**{**named, **more}))

    def exit_handler(self, pipeline: str) -> dsl.ExitHandler:
        """Return a group of steps whose result the step `notify` records, even if a step fails."""
        task = notify(pipeline=pipeline, runs=self.runs)
        if self.cluster:
            kubernetes.use_field_path_as_env(task, NODE, "metadata.annotations['workflows.argoproj.io/node-name']")
        return dsl.ExitHandler(self.step(task))

    def with_experiment(self, task: PipelineTask) -> PipelineTask:
        """Mount the ConfigMap of active experiments in a step."""
        if self.cluster:
            # Kubernetes would not start a step without a required ConfigMap, so the step could not report the error.
            kubernetes.use_config_map_as_volume(task, EXPERIMENT, EXPERIMENT_MOUNT, optional=True)
        return task

    def with_model_registry(self, task: PipelineTask) -> PipelineTask:
        """Set the environment variables with which a step registers a published version."""
        if self.cluster:
            task.set_env_variable("MTORL_CLAIM", VOLUME)
            keys = {name: name for name in MODEL_REGISTRY_VARIABLES}
            kubernetes.use_secret_as_env(task, MODEL_REGISTRY, keys, optional=True)
        return task

    def _resources(self, traits: StepTraits) -> Resources:
        if traits.trains and not self._trains_in_pods:
            return self.training
        return LARGE if traits.reads_log else SMALL

    def _train(self, task: PipelineTask) -> None:
        if self._trains_in_pods:
            kubernetes.use_field_path_as_env(task, POD_NAME, "metadata.name")
            kubernetes.use_field_path_as_env(task, POD_UID, "metadata.uid")
        elif self.gpus:
            task.set_accelerator_type(GPU).set_accelerator_limit(self.gpus)
            kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
        kubernetes.set_timeout(task, TRAINING_SECONDS)


def on_cluster(gpus: int, nodes: int = 1) -> Profile:
    """Return the profile of a cluster with up to `gpus` GPUs per node and up to `nodes` nodes for a training."""
    return Profile(MOUNT, cluster=True, gpus=gpus, nodes=nodes)


LAPTOP = Profile()
CLUSTER = on_cluster(number_in("MTORL_GPUS", 0), number_in("MTORL_NODES", 1))
