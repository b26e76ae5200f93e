"""How many processes a training gets: one on little data, and never more than there are GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtorl.fitting.size import TOUCHPOINTS_PER_PROCESS, Size, size_for

EACH = TOUCHPOINTS_PER_PROCESS


@pytest.mark.parametrize(
    ("touchpoints", "gpus", "nodes", "size"),
    [
        (0, 0, 1, Size(1, 1)),
        (100 * EACH, 0, 1, Size(1, 1)),  # on CPUs
        (2 * EACH - 1, 8, 4, Size(1, 1)),  # one more would have too little
        (2 * EACH, 8, 4, Size(1, 2)),
        (8 * EACH, 8, 4, Size(1, 8)),  # one node, as long as that is enough
        (9 * EACH, 8, 4, Size(2, 8)),  # whole nodes
        (100 * EACH, 8, 4, Size(4, 8)),
        (100 * EACH, 8, 1, Size(1, 8)),
        (3 * EACH, 0, 2, Size(2, 1)),  # a process on each node without GPUs
    ],
)
def test_a_training_gets_as_many_processes_as_it_is_worth(
    touchpoints: int, gpus: int, nodes: int, size: Size, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"rows": touchpoints}))
    assert size_for(str(tmp_path), gpus, nodes) == size
    assert size.total == size.nodes * size.processes
