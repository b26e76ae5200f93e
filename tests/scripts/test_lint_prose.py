import runpy
from pathlib import Path

import pytest

from tests.repository import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "lint_prose.py"))
FUNCTION = '"""A module."""\n\n\ndef f(n):\n    """%s"""\n'
SAMPLES = [
    ("question", "a.py", '"""What is known."""\n', 1),
    ("riddle", "a.py", FUNCTION % "How far it is.", 5),
    ("args", "a.py", FUNCTION % "Counts.\n\n    Args:\n        n (int): Of\n            all rows.\n    ", 8),
    ("ever", "a.py", "x = 1\n\n# no entry,\n# and whoever reads it\nx = 2\n", 4),
    ("no one", "a.py", 'x = f"{1}: nobody came"\n', 1),
    ("before", "a.md", "# Page\n\nthe one of\nbefore\n", 3),
    ("said", "a.py", FUNCTION % "It is\n    asked for.\n    ", 5),
]


def test_each_habit_is_found_at_its_line() -> None:
    assert [name for name, *_ in SAMPLES] == list(SCRIPT["HABITS"])
    for name, path, text, line in SAMPLES:
        assert [hit.split(" ")[0] for hit in SCRIPT["hits"](path, text)[1][name]] == [f"{path}:{line}:"], name
    assert not any(SCRIPT["hits"]("a.py", '"""Counts what is known."""\n# rows are told apart by cost\n')[1].values())


def test_a_count_above_its_ceiling_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    main = SCRIPT["main"]
    (tmp_path / "a.md").write_text("nobody")
    monkeypatch.setitem(main.__globals__, "ROOT", tmp_path)
    monkeypatch.setitem(main.__globals__, "files", lambda places: ["a.md"])
    assert main([]) == 0
    monkeypatch.setitem(SCRIPT["HABITS"], "no one", SCRIPT["HABITS"]["no one"]._replace(ceiling=0))
    assert main([]) == 1
