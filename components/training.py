"""Two policies in the same artifact format: the incumbent (frequencies) and the challenger (MTORL)."""

from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components._base import component


@component
def fit_incumbent(windows: Input[Dataset], code_version: str, model: Output[Model]):
    """Fit the channel frequencies by segment, the stand-in for what a team runs today."""
    from mtorl.fitting.fit import fit_incumbent as fit

    artifact = fit(windows.path, model.path)
    model.metadata["digest"] = artifact.digest


@component
def train_challenger(
    windows: Input[Dataset],
    epochs: int,
    seed: int,
    budget_share: float,
    code_version: str,
    checkpoint: str,
    log: str,
    model: Output[Model],
    metrics: Output[Metrics],
) -> float:
    """Train MTORL with early stopping on held-out users; returns the best validation loss."""
    import json
    from pathlib import Path

    from mtorl.fitting.fit import fit_challenger as fit
    from mtorl.network.training import TrainConfig

    artifact = fit(windows.path, model.path, TrainConfig(epochs=epochs, seed=seed), budget_share, checkpoint, log)
    assert artifact is not None  # None is for processes that train along with another one
    model.metadata["digest"] = artifact.digest
    figures = {name: float(artifact.metrics[name]) for name in ("seconds", "best_epoch", "best_val_loss")}
    for name, value in figures.items():
        metrics.log_metric(name, value)
    Path(metrics.path).write_text(json.dumps(figures))  # kfp's cache skips a Metrics output that has no file
    return figures["best_val_loss"]
