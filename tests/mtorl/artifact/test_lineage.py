import json
from pathlib import Path

import pytest

from mtorl.artifact.lineage import FILE, Lineage, LineageError
from tests.serving.small_versions import digest, lineage

KNOWN = lineage(1, parent=2)


def test_a_written_lineage_is_read_back(tmp_path: Path) -> None:
    KNOWN.write(tmp_path)
    assert Lineage.read(tmp_path) == KNOWN
    written = json.loads((tmp_path / FILE).read_text())
    assert written["gate"]["lift"] == {"value": 0.1, "low": 0.05, "high": 0.15}
    assert written["parents"] == [{"relation": "compared with", "digest": digest(2), "policy": None}]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        KNOWN.model_dump_json().replace('"schema_version":1', '"schema_version":2'),
        KNOWN.model_dump_json().replace('"package"', '"packages"'),
    ],
    ids=["missing", "no JSON", "of a later release", "another field"],
)
def test_a_file_that_can_not_be_read_is_named(tmp_path: Path, text: str) -> None:
    if text:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(LineageError) as error:
        Lineage.read(tmp_path)
    assert str(tmp_path / FILE) in str(error.value)
