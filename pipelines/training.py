"""The training pipeline: touchpoint log -> features -> two policies -> offline evaluation -> gate -> model store.

One definition for the laptop and the cluster. What differs on a cluster (GPU, tolerations, timeouts) is a `Profile`,
applied when the pipeline is built:

    mtorl run                      # runs it here through kfp.local
    mtorl compile                  # writes manifests/pipelines/mtorl-train.yaml
"""

from dataclasses import dataclass

from kfp import dsl, kubernetes

from components import data, evaluation, training
from mtorl import __version__


@dataclass(frozen=True)
class Profile:
    """Cluster settings of the pipeline's steps.

    Attributes:
        gpus: Accelerators of the training step; 0 leaves it on the CPU.
        gpu_resource: Kubernetes resource name of one accelerator.
        timeout_seconds: Longest run of the training step; 0 for no limit.
        volume: Claim mounted at /mnt/mtorl in every step (logs, feature repository, registry); empty for none.
        user: Numeric user that the steps run as; 0 leaves the pod's default.
    """

    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    timeout_seconds: int = 0
    volume: str = ""
    user: int = 0


LAPTOP = Profile()
CLUSTER = Profile(gpus=1, timeout_seconds=6 * 3600, volume="mtorl-data", user=10001)


def build(profile: Profile = LAPTOP) -> dsl.base_component.BaseComponent:
    """Build the pipeline for a profile."""

    @dsl.pipeline(name="mtorl-train", description="Touchpoint logs to a gated MTORL policy.")
    def mtorl_train(
        feature_repo: str = "/mnt/mtorl/features",
        quarantine: str = "/mnt/mtorl/quarantine.csv",
        registry: str = "/mnt/mtorl/registry",
        source: str = "",
        dataset: str = "simulator",
        on_bad_rows: str = "fail",
        users: int = 0,
        seed: int = 7,
        epochs: int = 12,
        budget_share: float = 0.6,
        min_lift: float = 0.0,
        code_version: str = __version__,
    ):
        log = data.ingest(
            source=source,
            dataset=dataset,
            quarantine=quarantine,
            on_bad_rows=on_bad_rows,
            users=users,
            seed=seed,
        )
        windows = data.build_features(log=log.outputs["log"], feature_repo=feature_repo, code_version=code_version)
        windows.set_caching_options(False)  # it writes the feature repository, which no cache entry restores
        incumbent = training.fit_incumbent(windows=windows.outputs["windows"], code_version=code_version)
        challenger = training.train_challenger(
            windows=windows.outputs["windows"],
            epochs=epochs,
            seed=seed,
            budget_share=budget_share,
            code_version=code_version,
            # A pod that is evicted goes on where it stood, if there is a volume that outlives it.
            checkpoint=f"/mnt/mtorl/checkpoints/{dsl.PIPELINE_JOB_ID_PLACEHOLDER}.pt" if profile.volume else "",
            log=f"/mnt/mtorl/tensorboard/{dsl.PIPELINE_JOB_ID_PLACEHOLDER}" if profile.volume else "",
        )
        scores = evaluation.evaluate(
            windows=windows.outputs["windows"],
            challenger=challenger.outputs["model"],
            incumbent=incumbent.outputs["model"],
            budget_share=budget_share,
            seed=seed,
            code_version=code_version,
        )
        decision = evaluation.gate(evaluation=scores.outputs["evaluation"], min_lift=min_lift)
        decision.set_caching_options(False)
        store = evaluation.package(challenger=challenger.outputs["model"], incumbent=incumbent.outputs["model"])
        with dsl.If(decision.output == "promote", name="promote"):
            published = evaluation.publish(
                challenger=challenger.outputs["model"],
                model_store=store.outputs["model_store"],
                registry=registry,
            )
            published.set_caching_options(False)

        if profile.gpus:
            challenger.set_accelerator_type(profile.gpu_resource).set_accelerator_limit(profile.gpus)
            kubernetes.add_toleration(challenger, key=profile.gpu_resource, operator="Exists", effect="NoSchedule")
        if profile.timeout_seconds:
            kubernetes.set_timeout(challenger, profile.timeout_seconds)
        if profile.volume:
            challenger.set_retry(num_retries=3)
        for task in (log, windows, incumbent, challenger, scores, decision, store, published):
            if profile.volume:
                kubernetes.mount_pvc(task, pvc_name=profile.volume, mount_path="/mnt/mtorl")
            if profile.user:
                kubernetes.set_security_context(
                    task, run_as_user=profile.user, run_as_group=profile.user, run_as_non_root=True
                )

    return mtorl_train
