"""Tests that shortened graphs compute only the needed steps and return the full graph's bits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtorl.artifact.artifact import NETWORK, Artifact, open_graph
from mtorl.artifact.lengths import exact_lengths, lengths_up_to, shortened
from mtorl.artifact.saving import save
from mtorl.network.ensemble import Ensemble
from mtorl.network.model import MTORL, MTORLConfig
from mtorl.network.user_state import fit_state_distance
from mtorl.window.encoder import Encoder
from tests.mtorl.artifact.test_artifact import SPEC, batch, trained_policy

SIZES: dict[str, dict[str, Any]] = {
    "as it is by default": {"window": 20, "hidden": 64},
    "large": {"window": 130, "hidden": 128, "levels": 3, "heads": 2},
    "without attention": {"window": 23, "hidden": 64, "attention": False},
    "without convolutions": {"window": 50, "hidden": 64, "convolutions": False},
}


@pytest.fixture(scope="module", params=SIZES)
def artifact(request, tmp_path_factory) -> Artifact:
    sizes = SIZES[request.param]
    spec = SPEC.replace(window=sizes["window"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = Encoder.fit(batch(40), spec)
    config = MTORLConfig(encoder.dim, channels=4, outcomes=len(encoder.seen), cost_scale=0.3, **sizes)
    network = Ensemble([MTORL(config)]).eval()
    fit_state_distance(network, encoder, batch(40))
    return save(tmp_path_factory.mktemp("lengths") / "challenger", trained_policy(network=network, spec=spec))


@given(data=st.data())
def test_every_output_is_bit_identical_to_that_of_the_whole_window(artifact, data):
    window, width = artifact.spec.window, artifact.encoder.dim
    whole, short = open_graph(artifact.folder / NETWORK), artifact.network
    longest = data.draw(st.sampled_from(artifact.lengths))
    length_B = np.array(data.draw(st.lists(st.integers(1, longest), min_size=1, max_size=20)))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x_BTD = random.normal(size=(len(length_B), window, width)).astype(np.float32)
    x_BTD[..., :5] = np.eye(5)[random.integers(5, size=x_BTD.shape[:2])]  # one-hot: a channel, or the start
    x_BTD[np.arange(window) >= length_B[:, None]] = 0.0
    outputs, expected = short(x_BTD, length_B), whole(x_BTD, length_B)
    assert len(outputs) == len(expected) == 4
    for output, of_whole in zip(outputs, expected, strict=True):
        assert np.isfinite(of_whole).all()
        np.testing.assert_array_equal(output, of_whole)
    # Padding must not influence any output.
    x_BTD[np.arange(window) >= length_B[:, None]] = 7.0
    for output, of_whole in zip(short(x_BTD, length_B), expected, strict=True):
        np.testing.assert_array_equal(output, of_whole)


def test_an_artifact_lists_its_lengths(artifact):
    window = artifact.spec.window
    assert artifact.lengths == tuple(artifact.model["lengths"]) == lengths_up_to(window)
    assert artifact.lengths[:2] == (4, 8) and artifact.lengths[-1] == window


def test_lengths_are_powers_of_two_and_the_window():
    assert lengths_up_to(50) == (4, 8, 16, 32, 50)
    assert lengths_up_to(32) == (4, 8, 16, 32)
    assert lengths_up_to(5) == (4, 5)
    assert [lengths_up_to(window) for window in (1, 2, 3, 4)] == [(1,), (2,), (3,), (4,)]


def test_a_batch_uses_the_smallest_length_that_fits_its_longest_window():
    taken = []

    def graph(x_BTD, length_B):
        assert x_BTD.flags.c_contiguous
        taken.append(x_BTD.shape[1])
        return (length_B,)

    network = shortened(graph, (4, 8, 20))
    for length_B in ([1], [4], [5], [3, 8, 2], [9], [20, 1], []):
        network(np.zeros((len(length_B), 20, 3), dtype=np.float32), np.array(length_B, dtype=np.int64))
    assert taken == [4, 4, 8, 8, 20, 20, 4]


def test_a_length_with_different_bits_is_left_out():
    def graph(x_BTD, length_B):
        # At 8 steps, the output's last bit is different.
        return (np.nextafter(length_B + 0.5, np.inf) if x_BTD.shape[1] == 8 else length_B + 0.5,)

    assert exact_lengths(graph, window=20, width=3) == (4, 16, 20)


@pytest.mark.parametrize("window", [1, 4, 5])
def test_a_short_window_can_be_exported(window, tmp_path: Path):
    spec = SPEC.replace(window=window)
    encoder = Encoder.fit(batch(40), spec)
    network = MTORL(MTORLConfig(encoder.dim, 4, window, len(encoder.seen), hidden=8))
    saved = save(tmp_path / "artifact", trained_policy(network=network, encoder=encoder, spec=spec))
    assert saved.lengths == lengths_up_to(window)
