"""Tests that files, modules and anchors named in the documentation exist."""

import re
from functools import cache
from pathlib import Path

import pytest

from tests.repository import ROOT

ROOMS = ("mtorl", "features", "serving", "monitoring", "components", "pipelines", "cli")
NOT_OURS = {".venv", ".git", "runs", "build", "node_modules"}
FILES = {
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*")
    if path.is_file() and not NOT_OURS & set(path.relative_to(ROOT).parts)
}
PAGES = sorted(name for name in FILES if name.endswith(".md"))
QUOTED = re.compile(r"`([\w./-]+\.(?:py|md|lua|sh|j2|yaml|toml|json))(?:::\w+)?`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)")
MODULE = re.compile(rf"(?<![\w./@-])((?:{'|'.join(ROOMS)})\.[a-z_]\w*(?:\.\w+)*)")
MADE_BY_A_RUN = {
    "/mnt/mtorl/monitor/state.json",
    "volume/runs/mtorl-train.json",
    "summary.json",
    "model.json",
    "ingest.json",
    "forgotten.json",
    "drift.json",
    "drift_thresholds.json",
    "serving/router.yaml",
}
EVENT_TYPES = {"mtorl.decision.v1", "mtorl.outcome.v1", "mtorl.shadow.v1"}
NOT_MODULES = EVENT_TYPES | {"serving.kserve.io", "pipelines.kubeflow.org"}  # an API group; a token's audience


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    """A page may write only the end of a path, and `NAME` as a placeholder."""
    text = (ROOT / page).read_text()
    broken = [target for target in LINK.findall(text) if not ((ROOT / page).parent / target).exists()]
    for name in QUOTED.findall(text):
        made = name in MADE_BY_A_RUN or name.startswith("runs/") or "NAME" in name
        if not made and not any(file == name or file.endswith(f"/{name}") for file in FILES):
            broken.append(name)
    assert not broken


def test_anchors_of_links_exist() -> None:
    links = [(ROOT / page, *link) for page in PAGES for link in ANCHOR.findall((ROOT / page).read_text())]
    targets = [(page, page.parent / name if name else page, anchor) for page, name, anchor in links]
    assert not [(page.name, anchor) for page, to, anchor in targets if anchor not in anchors_of(to.resolve())]


@cache
def anchors_of(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_named_modules_exist(page: str) -> None:
    """A page may name a module or a definition in it, such as `mtorl.policy.decision.decide`."""
    named = set(MODULE.findall((ROOT / page).read_text())) - NOT_MODULES
    assert not {name for name in named if not name.endswith((".py", ".md")) and not is_there(name)}


def is_there(name: str) -> bool:
    """Return whether a dotted name is a folder, a module, or a word in a module's source."""
    folder = ROOT
    parts = name.split(".")
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    if not parts:
        return True
    module = folder / f"{parts[0]}.py"
    if module.exists():
        return len(parts) == 1 or re.search(rf"\b{parts[1]}\b", module.read_text()) is not None
    return re.search(rf"\b{parts[0]}\b", (folder / "__init__.py").read_text()) is not None


def test_the_contents_name_every_page() -> None:
    contents = (ROOT / "docs" / "README.md").read_text()
    pages = {name.removeprefix("docs/") for name in PAGES if name.startswith("docs/")} - {"README.md"}
    assert not [name for name in pages if f"]({name})" not in contents and not name.startswith("runbooks/")]
