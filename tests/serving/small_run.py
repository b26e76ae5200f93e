from pathlib import Path

import yaml

from tests.experiments import experiment
from tests.serving.handler_fixtures import save_policy


def small_run(folder: Path) -> Path:
    import torch

    from features.offline import store
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
    store.materialize(run / "features", spec, run / "data" / "touchpoints.parquet")
    rows = log.head(50).to_dict("records")
    windows = [instance_from_history({}, row, row, spec, at=0) for row in rows]
    encoder = Encoder.fit(WindowBatch.from_instances(windows, spec), spec)
    for arm in ("incumbent", "challenger"):
        config = MTORLConfig(inputs=encoder.dim, channels=len(spec.channels), window=spec.window, outcomes=2)
        users = fingerprints(log["user_id"].unique())
        save_policy(run / "artifacts" / arm, MTORL(config), encoder, spec, params=PolicyParams(), training_users=users)
        package(run / "artifacts" / arm, arm, run / "model-store")
    content = experiment(
        "http://127.0.0.1",
        name="first",
        default_channel=spec.channels[0],
        budgets=[{"campaign": "*", "channel": "*", "amount": 1000}],
    )
    (run / "serving" / "experiment.yaml").write_text(yaml.safe_dump(content))
    return run
