"""A run that can be served: small, and made in seconds."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.experiments import experiment


def small_run(folder: Path) -> Path:
    """A run of a few simulated users whose two policies are untrained networks."""
    import pandas as pd
    import torch

    from features.offline import store
    from mtorl.artifact.saving import TrainedPolicy, save
    from mtorl.log.splits import fingerprints
    from mtorl.network.model import MTORL, MTORLConfig
    from mtorl.policy.decision import PolicyParams
    from mtorl.simulator.simulator import Simulator, SimulatorConfig
    from mtorl.window.encoder import Encoder
    from mtorl.window.window import WindowBatch, instance_from_history
    from serving.archive import package

    torch.set_num_threads(1)
    run = folder / "run"
    simulator = Simulator(SimulatorConfig(users=40, seed=1))
    spec, log = simulator.spec, simulator.log()
    (run / "data").mkdir(parents=True)
    (run / "serving").mkdir()
    log.to_parquet(run / "data" / "touchpoints.parquet", index=False)
    store.create(run / "features", spec, run / "data" / "touchpoints.parquet")
    store.materialize(run / "features", spec)
    rows = log.head(50).to_dict("records")
    windows = [instance_from_history({}, row, row, spec, at=0) for row in rows]
    encoder = Encoder.fit(WindowBatch.from_instances(windows, spec), spec)
    for arm in ("incumbent", "challenger"):
        policy = TrainedPolicy(
            name=arm,
            kind="mtorl",
            network=MTORL(MTORLConfig(inputs=encoder.dim, channels=len(spec.channels), window=spec.window, outcomes=2)),
            encoder=encoder,
            spec=spec,
            params=PolicyParams(),
            reference=pd.DataFrame({"user_id": ["a"]}),
            metrics={},
            cost_cap=dict.fromkeys(spec.channels, 1.0),
            default_channel=spec.channels[0],
            data_fingerprint="none",
            git_revision="none",
            training_users=fingerprints(log["user_id"].unique()),
        )
        save(run / "artifacts" / arm, policy)
        package(run / "artifacts" / arm, arm, run / "model-store")
    content = experiment(
        "http://127.0.0.1",
        name="first",
        default_channel=spec.channels[0],
        budgets=[{"campaign": "*", "channel": "*", "amount": 1000}],
    )
    (run / "serving" / "experiment.yaml").write_text(yaml.safe_dump(content))
    return run
