"""What differs between a laptop and a cluster: settings that a profile gives to each step of a pipeline."""

from dataclasses import dataclass

from kfp import kubernetes
from kfp.dsl import PipelineTask

from components.component import traits_of

MOUNT = "/mnt/mtorl"
"""Where the volume lies in every step on a cluster."""


@dataclass(frozen=True)
class Profile:
    """Cluster settings of a pipeline's steps.

    Attributes:
        gpus: Accelerators of a step that trains; 0 leaves it on the CPU.
        gpu_resource: Kubernetes resource name of one accelerator.
        timeout_seconds: Longest run of a step that trains; 0 for no limit.
        volume: Claim mounted at `MOUNT` in every step (logs, feature repository, registry); empty for none.
        user: Numeric user that the steps run as; 0 leaves the pod's default.
    """

    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    timeout_seconds: int = 0
    volume: str = ""
    user: int = 0

    def step(self, task: PipelineTask) -> PipelineTask:
        """Apply the profile, and what the component's decorator says of it, to a step; returns the step."""
        traits = traits_of(task.component_spec.name)
        if not traits.cached:
            task.set_caching_options(False)
        if traits.trains:
            self._train(task)
        if self.volume:
            kubernetes.mount_pvc(task, pvc_name=self.volume, mount_path=MOUNT)
        if self.user:
            kubernetes.set_security_context(task, run_as_user=self.user, run_as_group=self.user, run_as_non_root=True)
        return task

    def _train(self, task: PipelineTask) -> None:
        if self.gpus:
            task.set_accelerator_type(self.gpu_resource).set_accelerator_limit(self.gpus)
            kubernetes.add_toleration(task, key=self.gpu_resource, operator="Exists", effect="NoSchedule")
        if self.timeout_seconds:
            kubernetes.set_timeout(task, self.timeout_seconds)
        if self.volume:  # a retry goes on from the checkpoint, which only a volume keeps
            task.set_retry(num_retries=3)


LAPTOP = Profile()
CLUSTER = Profile(gpus=1, timeout_seconds=6 * 3600, volume="mtorl-data", user=10001)
