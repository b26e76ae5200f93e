"""Counts habits of writing that make prose hard to read, in code and pages, and fails if there are too many.

    python scripts/lint_prose.py                    prints the counts, and each hit of a habit above its ceiling
    python scripts/lint_prose.py cli docs/api.md    prints each hit in these folders and files

Tests, results, the changelog and generated pages are not checked.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
GENERATED = r"docs/(tables/|(results|command-line|metrics|conformance)\.md)|components/\w+/README"
LEFT_OUT = re.compile(rf"tests/|{GENERATED}|CHANGELOG")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
TEXT, MODULE, DOCSTRING, ENTRY = "text", "module docstrings", "other docstrings", "Args entries"


class Habit(NamedTuple):
    """A habit of writing, as a pattern to search for.

    Attributes:
        ceiling: Largest accepted number of hits or, if `kind` is set, percentage of texts with a hit.
        advice: Instruction for the writer.
        kind: Kind of texts in which to search.
    """

    ceiling: float
    advice: str
    pattern: str
    kind: str = TEXT


# Never raise a ceiling. If a change lowers a count, lower its ceiling as well.
HABITS = {
    "question": Habit(0.2, "open with a noun or a verb", r"\A(What|How|Whether|Which|Where|Who|When|Why)\b", MODULE),
    "riddle": Habit(0.1, "open with a noun or a verb", r"\A(What|How|Which|Where|Who|When|Why)\b", DOCSTRING),
    "args": Habit(2, "give unit, shape or meaning, or leave it out", r"\A\s*(\S+\s+){0,3}\S+\s*\Z", ENTRY),
    "ever": Habit(20, "name the role or the thing", r"\b(who|what|which)ever\b"),
    "no one": Habit(20, "name the role or the part", r"\bnobody\b"),
    "before": Habit(0, "write previous, or as before", r"\bof\s+before\b"),
    "said": Habit(20, "write what happens", r"\b(is|are|was|were|been?)\s+(said|told(?!\s+apart)|heard|asked\s+for)\b"),
}
MARKDOWN_WORDS = 60_000


def files(places: list[str]) -> list[str]:
    """List the Python and Markdown files to check, relative to the root of the repository."""
    listed = subprocess.run(["git", "ls-files", "--", *places], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (path for path in listed.stdout.split() if path.endswith((".py", ".md")) and not LEFT_OUT.match(path))
    return [path for path in paths if (ROOT / path).exists()]


def python_texts(source: str) -> Iterator[tuple[str, int, str]]:
    """Yield each docstring, Args entry, string and block of comments, with its kind and its first line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield TEXT, node.lineno, node.value
        if not isinstance(node, DOCUMENTED) or not (doc := ast.get_docstring(node)):
            continue
        first = node.body[0].lineno
        yield MODULE if isinstance(node, ast.Module) else DOCSTRING, first, doc
        for section in re.finditer(r"^Args:\n((?: .*(?:\n|\Z)|\n(?= ))+)", doc, re.M):
            for entry in re.finditer(r"^ {4}[*\w]+(?: \([^)]*\))?: (.*(?:\n {5,}.*)*)", section[1], re.M):
                yield ENTRY, first + doc.count("\n", 0, section.start(1) + entry.start(1)), entry[1]
    line, block = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, block = (line, block + "\n") if block else (token.start[0], "")
            block += token.string.lstrip("#: ")
        elif block and token.type != tokenize.NL:
            yield TEXT, line, block
            block = ""


def hits(path: str, source: str) -> tuple[Counter[str], dict[str, list[str]]]:
    """Count the texts of a file by kind, and list the hits of each habit as `file:line: ...`."""
    kinds: Counter[str] = Counter()
    found: dict[str, list[str]] = {name: [] for name in HABITS}
    for kind, first, text in python_texts(source) if path.endswith(".py") else [(TEXT, 1, source)]:
        kinds[kind] += 1
        for name, habit in HABITS.items():
            for match in re.finditer(habit.pattern, text, re.I) if habit.kind == kind else ():
                line = first + text.count("\n", 0, match.start())
                quoted = " ".join(text[max(match.start() - 30, 0) : match.end() + 40].split())
                found[name].append(f'{path}:{line}: "{quoted}": {habit.advice}')
    return kinds, found


def main(places: list[str]) -> int:
    """Print each hit in `places` or, if `places` is empty, the counts of the whole repository.

    Returns 1 if a count is above its ceiling, otherwise 0.
    """
    kinds: Counter[str] = Counter()
    found: dict[str, list[str]] = {name: [] for name in HABITS}
    words = 0
    for path, source in ((path, (ROOT / path).read_text(encoding="utf-8")) for path in files(places)):
        words += len(source.split()) if path.endswith(".md") else 0
        more, hit = hits(path, source)
        kinds += more
        for name in HABITS:
            found[name] += hit[name]
    if places:
        print(*(line for name in HABITS for line in found[name]), f"{words} words of Markdown", sep="\n")
        return 0
    above = words > MARKDOWN_WORDS
    print(f"words of Markdown: {words}, ceiling {MARKDOWN_WORDS}")
    for name, habit in HABITS.items():
        count, of = float(len(found[name])), ""
        if habit.kind != TEXT:
            count, of = 100 * count / max(kinds[habit.kind], 1), f" % of {kinds[habit.kind]} {habit.kind}"
        print(f"{name}: {count:.3g}{of}, ceiling {habit.ceiling}")
        if count > habit.ceiling:
            above = True
            print(*found[name], sep="\n")
    return int(above)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
