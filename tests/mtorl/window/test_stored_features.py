"""Fields of feature views as model input: where a window has them, and what a missing one is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtorl.baselines.inputs import Summary
from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec
from mtorl.window.encoder import Encoder
from mtorl.window.request_features import stored_features
from mtorl.window.window import WindowBatch, instance_from_history

HOUR = 3_600_000_000  # us
SPEC = DatasetSpec.from_dict(
    {
        "name": "tiny",
        "channels": ["search", "short video"],
        "context": [{"name": "device", "kind": "categorical"}],
        "propensity": "logged",
        "window": 3,
        "features": [
            {
                "view": "user_channel",
                "fields": [{"name": "clicks", "kind": "numeric", "by_channel": True, "missing": "zero"}],
            },
            {
                "view": "weather",
                "source": "weather.parquet",
                "key": "campaign_id",
                "fields": [{"name": "sky", "kind": "categorical"}, {"name": "degrees", "kind": "numeric"}],
            },
        ],
    }
)
NAMES = ("clicks_search", "clicks_short_video", "sky", "degrees")
STORED: list[dict[str, Any]] = [
    {"clicks": [0.0, 1.0], "sky": "rain", "degrees": 3.0},
    {"clicks": None, "sky": None, "degrees": float("nan")},
    {"clicks": [2.0, float("nan")], "sky": "clear", "degrees": 20.0},
    {"clicks": [4.0, 0.0], "sky": "rain", "degrees": -1.0},
]


def steps() -> pa.Table:
    inputs = [stored_features(stored, SPEC) for stored in STORED]
    rows = len(STORED)
    return pa.table(
        {
            "user_id": ["u"] * rows,
            "timestamp": pa.array([(1 + i) * HOUR for i in range(rows)], pa.timestamp("us", "UTC")),
            "channel": ["search", "short video", "search", "search"],
            **{name: [1.0, 0.0, 0.0, 1.0] for name in ("click", "conversion", "revenue", "cost")},
            "device": ["phone"] * rows,
            **{name: [values[name] for values in inputs] for name in NAMES},
        }
    )


def instance(row: int) -> dict[str, Any]:
    """The window of a row, from what a store holds."""
    table = steps().slice(0, row).to_pydict()
    names = ("channel", "click", "conversion", "revenue", "cost", "device")
    history = {f"hist_{name}": table[name] for name in names}
    history["hist_timestamp"] = [(1 + i) * HOUR for i in range(row)]
    return instance_from_history(history, {"device": "phone"}, {}, SPEC, (1 + row) * HOUR, STORED[row])


def test_a_field_becomes_a_column_or_one_for_each_channel():
    assert tuple(column.name for column in SPEC.feature_columns) == NAMES
    assert not {*NAMES} & {*SPEC.log_columns}, "the log does not have them"


def test_a_missing_value_is_what_the_description_says():
    assert stored_features({}, SPEC) == dict(zip(NAMES, [0.0, 0.0, None, None], strict=True))
    assert stored_features(STORED[2], SPEC) == dict(zip(NAMES, [2.0, 0.0, "clear", 20.0], strict=True))
    assert stored_features({"sky": ""}, SPEC)["sky"] is None


def test_a_list_that_is_not_one_number_a_channel_is_an_error():
    with pytest.raises(WindowError, match="clicks has 3 values for 2 channels"):
        stored_features({"clicks": [1.0, 2.0, 3.0]}, SPEC)


def test_the_log_and_a_server_give_the_same_input_with_features_at_the_last_token_only():
    offline = WindowBatch.from_steps(steps(), None, SPEC)
    online = WindowBatch.from_instances([instance(row) for row in range(len(STORED))], SPEC)
    encoder = Encoder.fit(WindowBatch.from_steps(steps(), None, SPEC, targets=True), SPEC)
    x_BTD, length_B = encoder.encode(offline)
    np.testing.assert_array_equal(x_BTD, encoder.encode(online)[0])
    assert encoder.stored == 2 + 3 + 1  # two channels, two skies and the unknown one, degrees
    numbers_BT = x_BTD[..., -1]
    assert numbers_BT[0, 0] != 0 and numbers_BT[3, 2] != 0, "degrees of the decision itself"
    assert length_B.tolist() == [1, 2, 3, 3] and not numbers_BT[3, :2].any(), "of earlier ones nobody knows them"


def test_for_training_each_token_has_its_own():
    batch = WindowBatch.from_steps(steps(), np.array([3]), SPEC, targets=True)
    assert batch.features["clicks_search"].tolist() == [0.0, 2.0, 4.0]
    sky = batch.take(np.array([0])).features["sky"]
    assert [sky.values[code] if code >= 0 else None for code in sky.codes] == [None, "clear", "rain"]


def test_models_that_read_no_sequences_have_them_too():
    batch = WindowBatch.from_steps(steps(), None, SPEC, targets=True)
    summary = Summary.of(batch, Encoder.fit(batch, SPEC))
    values = dict(zip(summary.names, summary.values_BF.T, strict=True))
    assert values["clicks_search"].tolist() == [0.0, 0.0, 2.0, 4.0]
    assert np.isnan(values["degrees"]).tolist() == [False, True, False, False]
    assert "sky" in summary.categorical


def test_what_a_server_is_not_told_is_named():
    window = instance(2)
    del window["features"]
    with pytest.raises(WindowError, match="features is missing"):
        WindowBatch.from_instances([window], SPEC)
    with pytest.raises(WindowError, match="missing columns degrees"):
        WindowBatch.from_steps(steps().drop_columns(["degrees"]), None, SPEC)


def test_a_network_reads_stored_features_of_the_decision_alone():
    torch = pytest.importorskip("torch")
    from mtorl.network.model import MTORL, MTORLConfig

    batch = WindowBatch.from_steps(steps(), None, SPEC, targets=True)
    encoder = Encoder.fit(batch, SPEC)
    sizes = {"inputs": encoder.dim, "channels": 2, "window": 3, "outcomes": 2, "hidden": 8, "heads": 2}
    network = MTORL(MTORLConfig(**sizes, stored=encoder.stored)).eval()
    for_training, length_B = encoder.encode(batch)
    served, _ = encoder.encode(WindowBatch.from_steps(steps(), None, SPEC))
    assert (for_training != served).any()
    length = torch.from_numpy(length_B)
    with torch.inference_mode():
        answers = [network(torch.from_numpy(x), length) for x in (for_training, served)]
        torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)
        every_step = network.forward_all(torch.from_numpy(for_training))[0]
        torch.testing.assert_close(every_step[torch.arange(4), length - 1], answers[0][0])
        changed = served.copy()
        changed[3, 2, -1] += 1.0
        assert not torch.equal(network(torch.from_numpy(changed), length)[0][3], answers[1][0][3])
