import ast
import json
import pickle
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from mtorl.runtime.message import Words, prefixed, rephrased

ROOT = Path(__file__).resolve().parents[1]


@cache
def sources() -> list[tuple[str, str, list[ast.AST]]]:
    """Return each file's path, text and syntax nodes.

    The files are read on first use, because every test process imports this module.
    """
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    texts = ((path, (ROOT / path).read_text()) for path in listed if not path.startswith(("tests/", "benchmarks/")))
    return [(path, text, [*ast.walk(ast.parse(text))]) for path, text in texts]


@cache
def catalogues() -> dict[str, dict[str, Words]]:
    found: dict[str, dict[str, Words]] = defaultdict(dict)
    for path, _, (module, *_) in sources():
        for node in module.body if isinstance(module, ast.Module) else ():
            match node:
                case ast.Assign([ast.Name(name)], ast.Call(ast.Name("Words"), arguments)):
                    found[path][name] = Words(*map(ast.literal_eval, arguments))
    return found


def test_words_are_filled_and_survive_a_process():
    words = Words("no-column", "{file}: no column {column}")
    message = words(file="a.csv", column="cost")
    again = pickle.loads(pickle.dumps(message))
    assert (again, again.code, again.values) == (
        "a.csv: no column cost",
        "no-column",
        {"file": "a.csv", "column": "cost"},
    )
    placed = prefixed("lake", ValueError(message))
    assert (placed, placed.code, placed.values) == ("lake: a.csv: no column cost", message.code, message.values)
    with pytest.raises(TypeError):
        words(file="a.csv")
    with pytest.raises(TypeError):
        words(file="a.csv", column="cost", row=3)
    listed = Words("rows", "{rows} of\n{rows:\n}")(rows=(1, Path("2")))
    assert listed == "1, 2 of\n1\n2" and json.dumps(listed.values) == '{"rows": [1, "2"]}'
    wrapped = rephrased(ValueError(again), f"import: {again}")
    assert (wrapped, wrapped.code, wrapped.values) == (f"import: {again}", again.code, again.values)


def test_codes_are_kebab_case_and_unique_in_the_project():
    codes = [words.code for found in catalogues().values() for words in found.values()]
    assert len(codes) == len(set(codes)) and all(code == code.lower().replace("_", "-") for code in codes)


def references(nodes: list[ast.AST], module: str) -> Iterator[tuple[str, ast.expr, ast.Call | None]]:
    """Yield the name, the node and the call, if any, of each use of a catalogue's entry."""
    package, _, own = module.rpartition(".")
    modules, names = set(), {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == package:
            modules |= {alias.asname or alias.name for alias in node.names if alias.name == own}
        if isinstance(node, ast.ImportFrom) and node.module == module:
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
    calls = {node.func: node for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        match node:
            case ast.Name(name, ast.Load()) if name in names:
                yield names[name], node, calls.get(node)
            case ast.Attribute(ast.Name(owner), name) if owner in modules:
                yield name, node, calls.get(node)


def test_each_entry_is_used_with_its_values():
    unused = []
    for path, catalogue in catalogues().items():
        used = set()
        module = path.removesuffix(".py").replace("/", ".")
        known = (module, f"{module.rpartition('.')[0]} import")  # most files contain neither
        for user, text, nodes in sources():
            for name, node, call in references(nodes, module) if any(one in text for one in known) else ():
                used.add(name)
                if call and all(keyword.arg for keyword in call.keywords):
                    assert {keyword.arg for keyword in call.keywords} == catalogue[name].names, f"{user}:{node.lineno}"
        unused += sorted(catalogue.keys() - used)
    assert unused == []
