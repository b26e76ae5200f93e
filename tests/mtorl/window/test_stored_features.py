"""Fields of feature views as model input: where a window has them, and what a missing one is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtorl.baselines.inputs import Summary
from mtorl.log.columns import WindowError
from mtorl.window.encoder import Encoder
from mtorl.window.request_features import stored_features
from mtorl.window.window import WindowBatch, instance_from_history
from tests.mtorl.window.small_journeys import JOURNEY, SPEC, log_of, offline, online, steps_of, touchpoints

CLICKS = {"name": "clicks", "kind": "numeric", "by_channel": True, "missing": "zero"}
WEATHER = [{"name": "sky", "kind": "categorical"}, {"name": "degrees", "kind": "numeric"}]
STORING = SPEC.replace(
    features=[
        {"view": "user_channel", "fields": [CLICKS]},
        {"view": "weather", "source": "weather.parquet", "key": "campaign_id", "fields": WEATHER},
    ]
)
NAMES = ("clicks_search", "clicks_social", "sky", "degrees")
STORED: list[dict[str, Any]] = [
    {"clicks": [0.0, 1.0], "sky": "rain", "degrees": 3.0},
    {"clicks": None, "sky": None, "degrees": float("nan")},
    {"clicks": [2.0, float("nan")], "sky": "clear", "degrees": 20.0},
    {"clicks": [4.0, 0.0], "sky": "rain", "degrees": -1.0},
]
SEEN = [{**t, **stored_features(s, STORING), "stored": s} for t, s in zip(touchpoints(4), STORED, strict=True)]
ROWS = log_of([(JOURNEY[0], SEEN)])


def test_a_field_becomes_a_column_or_one_for_each_channel():
    assert tuple(column.name for column in STORING.feature_columns) == NAMES
    assert not {*NAMES} & {*STORING.log_columns}, "the log does not have them"
    spaced = STORING.replace(channels=("search", "short video"))
    assert [column.name for column in spaced.feature_columns][:2] == ["clicks_search", "clicks_short_video"]


def test_a_missing_value_is_what_the_description_says():
    assert stored_features({}, STORING) == dict(zip(NAMES, [0.0, 0.0, None, None], strict=True))
    assert stored_features(STORED[2], STORING) == dict(zip(NAMES, [2.0, 0.0, "clear", 20.0], strict=True))
    assert stored_features({"sky": ""}, STORING)["sky"] is None


def test_a_list_that_is_not_one_number_a_channel_is_an_error():
    with pytest.raises(WindowError, match="clicks has 3 values for 2 channels"):
        stored_features({"clicks": [1.0, 2.0, 3.0]}, STORING)


def test_the_log_and_a_server_give_the_same_input_with_features_at_the_last_token_only():
    encoder = Encoder.fit(offline(ROWS, True, STORING), STORING)
    x_BTD, length_B = encoder.encode(offline(ROWS, spec=STORING))
    np.testing.assert_array_equal(x_BTD, encoder.encode(online(ROWS, spec=STORING))[0])
    assert encoder.stored == 2 + 3 + 1  # two channels, two skies and the unknown one, degrees
    numbers_BT = x_BTD[..., -1]
    assert numbers_BT[0, 0] != 0 and numbers_BT[3, 2] != 0, "degrees of the decision itself"
    assert length_B.tolist() == [1, 2, 3, 3] and not numbers_BT[3, :2].any(), "of earlier ones nobody knows them"


def test_for_training_each_token_has_its_own():
    batch = offline(ROWS, True, STORING).take(np.array([3]))
    assert batch.features["clicks_search"].tolist() == [0.0, 2.0, 4.0]
    sky = batch.features["sky"]
    assert [sky.values[code] if code >= 0 else None for code in sky.codes] == [None, "clear", "rain"]


def test_models_that_read_no_sequences_have_them_too():
    batch = offline(ROWS, True, STORING)
    summary = Summary.of(batch, Encoder.fit(batch, STORING))
    values = dict(zip(summary.names, summary.values_BF.T, strict=True))
    assert values["clicks_search"].tolist() == [0.0, 0.0, 2.0, 4.0]
    assert np.isnan(values["degrees"]).tolist() == [False, True, False, False]
    assert "sky" in summary.categorical


def test_what_a_server_is_not_told_is_named():
    now = ROWS[0]
    window = instance_from_history({}, now, now, STORING, now["timestamp"], now["stored"])
    del window["features"]
    with pytest.raises(WindowError, match="features is missing"):
        WindowBatch.from_instances([window], STORING)
    with pytest.raises(WindowError, match="missing columns degrees"):
        WindowBatch.from_steps(steps_of(ROWS, STORING).drop_columns(["degrees"]), None, STORING)


def test_a_network_reads_stored_features_of_the_decision_alone():
    torch = pytest.importorskip("torch")
    from mtorl.network.model import MTORL, MTORLConfig

    batch = offline(ROWS, True, STORING)
    encoder = Encoder.fit(batch, STORING)
    sizes = {"inputs": encoder.dim, "channels": 2, "window": 3, "outcomes": 2, "hidden": 8, "heads": 2}
    network = MTORL(MTORLConfig(**sizes, stored=encoder.stored)).eval()
    for_training, length_B = encoder.encode(batch)
    served, _ = encoder.encode(offline(ROWS, spec=STORING))
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
