"""Trains the challenger, an MTORL model, on the windows of the training users."""

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.component import component


@component("train MTORL", trains=True)
def train_challenger(
    windows: Input[Dataset],
    epochs: int,
    seed: int,
    budget_share: float,
    settings: str,
    code_version: str,
    volume: str,
    pods: str,
    model: Output[Model],
    metrics: Output[Metrics],
) -> float:
    """Train MTORL until the loss on validation users stops falling; returns the smallest validation loss.

    Args:
        settings: Text of the settings.yaml of a search (`mtorl.fitting.settings`); "" for the defaults. It is the text
            and not a path, because the cache would not notice that a file has changed.
        volume: Persistent folder for TensorBoard files and checkpoints; "" for none. A retry, or a later run with equal
            data and settings, continues from a checkpoint.
        pods: Settings of a TrainJob whose pods train instead of this step (`components.trainer.train_job.Pods`); ""
            trains in this step.
        model: Artifact folder of the challenger.
        metrics: Seconds of training, number of the best epoch, and best validation loss.
    """
    import json
    from pathlib import Path

    from components.trainer.train import train_in_pods
    from components.trainer.train_job import Pods, size_for
    from mtorl.fitting.fit import fit_challenger
    from mtorl.fitting.settings import KeptFiles, prune, read_settings, with_settings
    from mtorl.fitting.worker import FitTask
    from mtorl.network.training import TrainConfig
    from mtorl.runtime.snapshots import located
    from mtorl.runtime.step import step

    with step():
        prune(volume)
        config = with_settings(TrainConfig(epochs=epochs, seed=seed), read_settings(settings))
        each = Pods.of(pods) if pods else None
        data = str(located(windows.path))
        size = size_for(data, each) if each else None
        files = KeptFiles.of(volume, data, config, budget_share, code_version, size.total if size else 1)
        given = (data, model.path, config, budget_share, files.checkpoint, files.tensorboard)
        artifact = train_in_pods(FitTask(*given), size, each, files.shared) if each and size else fit_challenger(*given)
        # The artifact is None only in torchrun's non-leading processes, and a step is none of these.
        assert artifact is not None
        model.metadata["digest"] = artifact.digest
        figures = {name: float(artifact.metrics[name]) for name in ("seconds", "best_epoch", "best_val_loss")}
        for name, value in figures.items():
            metrics.log_metric(name, value)
        # The cache of kfp keeps only outputs that have a file.
        Path(metrics.path).write_text(json.dumps(figures))
        return figures["best_val_loss"]
