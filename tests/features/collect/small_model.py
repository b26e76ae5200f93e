"""Saves an untrained model for the data set of `decision_logs.py`."""

from pathlib import Path

from mtorl.window.window import instance_from_history
from tests.features.collect.decision_logs import SPEC

WINDOW = instance_from_history({}, {"hour": 1.0, "device": "phone", "placement": None}, {}, SPEC, 0.0)
"""That of a user of whom nothing is known."""


def save_small_model(folder: Path) -> None:
    import numpy as np
    import pandas as pd
    import torch

    from mtorl.artifact.saving import TrainedPolicy, save
    from mtorl.network.model import MTORL, MTORLConfig
    from mtorl.policy.decision import PolicyParams
    from mtorl.window.encoder import Encoder
    from mtorl.window.window import WindowBatch

    torch.manual_seed(0)
    encoder = Encoder.fit(WindowBatch.from_instances([WINDOW], SPEC), SPEC)
    policy = TrainedPolicy(
        name="challenger",
        kind="mtorl",
        network=MTORL(MTORLConfig(encoder.dim, len(SPEC.channels), SPEC.window, len(encoder.seen))),
        encoder=encoder,
        spec=SPEC,
        params=PolicyParams(),
        reference=pd.DataFrame({"user_id": ["a"]}),
        metrics={},
        cost_cap=dict.fromkeys(SPEC.channels, 1.0),
        default_channel=SPEC.channels[0],
        data_fingerprint="none",
        git_revision="none",
        training_users=np.array([], dtype=np.uint64),
    )
    save(folder, policy)
