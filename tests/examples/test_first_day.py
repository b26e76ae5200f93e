import importlib.util
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from monitoring.decision_log import DecisionLog
from serving.local.ports import free_ports
from tests.examples.walk import Command, Terminal, commands_of
from tests.repository import ROOT

pytestmark = pytest.mark.long

EXAMPLE = ROOT / "examples" / "first-day"
# Options that make the log small and use free ports (see `_with`).
SMALLER = {
    "python make_log.py": " --users 500",
    "python traffic.py": " --users 500 --router http://127.0.0.1:8080",
    "python incumbent_server.py": " --port 8070",
    "mtorl run": " --epochs 2 --rounds 2",
    "mtorl serve": " --port 8080 --models-port 8085",
}
PORTS = ("8080", "8085", "8070")
# On a small log, these commands print something else than the pages show.
OTHERWISE = ("head", "python traffic.py", "mtorl run", "mtorl experiment verdict", "mtorl data compact")


@dataclass(frozen=True)
class Walked:
    terminal: Terminal
    ports: dict[str, str]
    printed: list[tuple[Command, str]]

    def of(self, start: str) -> list[str]:
        return [output for command, output in self.printed if command.text.startswith(start)]


def walk(terminal: Terminal, ports: dict[str, str], page: str) -> Walked:
    commands = commands_of((ROOT / "docs" / page).read_text())
    smaller = [replace(one, text=_with(ports, one.text + _more(one.text))) for one in commands]
    return Walked(terminal, ports, list(zip(commands, terminal.walk(smaller), strict=True)))


def _more(command: str) -> str:
    return "".join(text for start, text in SMALLER.items() if command.startswith(start))


def _with(ports: dict[str, str], text: str) -> str:
    return re.sub("|".join(PORTS), lambda found: ports[found[0]], text)


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    place = tmp_path_factory.mktemp("first-day")
    (place / "repository").mkdir()
    (place / "repository" / "examples").symlink_to(ROOT / "examples")
    (copied,) = re.findall(r"^    (cp .*)$", (ROOT / "docs" / "first-day.md").read_text(), re.MULTILINE)
    Terminal(place / "repository", place / "bin").run(copied)
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    for file in (place / "first-day").glob("*.yaml"):
        file.write_text(_with(ports, file.read_text()))
    return walk(Terminal(place / "first-day", place / "bin"), ports, "first-day.md")


@pytest.fixture(scope="module")
def incumbents(first_day: Walked) -> Walked:
    return walk(first_day.terminal, first_day.ports, "incumbent.md")


def check_shown(walked: Walked) -> None:
    for command, output in walked.printed:
        if command.text.startswith(OTHERWISE):
            continue
        shown, printed = ({_words(line) for line in text.splitlines()} for text in (command.output, output))
        assert {line for line in shown if not line.startswith("ties:")} <= printed, command.text


def _words(line: str) -> str:
    return re.sub(r"[\d,.]*\d[\w-]*", "#", line).rstrip()


@pytest.mark.parametrize("page", ["first-day.md", "incumbent.md"])
def test_every_command_of_the_pages_is_followed(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert set(re.findall(r"^```(\w*)\n.*?^```$", text, re.MULTILINE | re.DOTALL)) <= {"console", "python", "yaml"}
    apart = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    commands = re.findall(r"^ {4}(?:cp|curl|mtorl|pip|python) .*", apart, re.MULTILINE)
    assert len(commands) == (page == "first-day.md"), "only the copy of the example"


def test_the_page_works_from_a_log_to_a_model_trained_on_its_own_decisions(first_day: Walked) -> None:
    check_shown(first_day)
    trained, again = first_day.of("mtorl run")
    assert "gate" in trained and "conversions" in trained
    *shadows, verdict = first_day.of("mtorl experiment verdict")
    for shadow in shadows:
        assert "the same action" in shadow and "by device" in shadow
        assert "at the same spend" in shadow or "its value is not known: " in shadow
    for days in first_day.of("python traffic.py"):
        assert re.search(r"^day \d: 500 decisions, \d+ ads shown; ", days)
    assert re.search(r"^first-day: (ship|inconclusive|stop|guardrail): ", verdict)
    shadow_days = re.search(r"left out: ([\d,]+) at stage shadow", verdict)
    # Days 0 to 2 have 500 shadow decisions each. Day 3 adds a few, until the router applies the new stage.
    assert shadow_days and 1500 <= int(shadow_days[1].replace(",", "")) < 2000
    (compacted,) = first_day.of("mtorl data compact")
    assert "3,500 decisions" in compacted and "opportunities" in compacted
    rows = [int(re.search(r"ads: ([\d,]+) touchpoints", out)[1].replace(",", "")) for out in (trained, again)]  # type: ignore[index]
    assert rows[1] > rows[0] + 1000  # plus its own exposures


def test_the_page_on_other_incumbents_works(incumbents: Walked) -> None:
    check_shown(incumbents)
    for name, verdict in zip(("endpoint", "rows"), incumbents.of("mtorl experiment verdict"), strict=True):
        assert verdict.startswith(f"{name}: ")


@pytest.mark.parametrize("way", ["experiment", "endpoint", "rows"])
def test_each_kind_of_incumbent_decides_as_the_rule_does(incumbents: Walked, way: str) -> None:
    rule = _module(EXAMPLE / "incumbent.py")
    with DecisionLog.of(incumbents.terminal.folder / way / "lake").opened() as db:
        rows = db.sql(
            """SELECT channel, expose, context, fallback_reason, exploration, channel_probs, exposure_probs
            FROM decision_log WHERE arm = 'incumbent'"""
        )
        decisions = rows.df().to_dict("records")
    in_time = [one for one in decisions if one["fallback_reason"] is None]  # a busy disk may delay records
    assert len(decisions) > 200 and len(in_time) > 100
    for decision in in_time:
        explored = json.loads(decision["exploration"]) if decision["exploration"] else None
        own = explored or decision
        assert {name: own[name] for name in ("channel", "expose")} == rule.decide(json.loads(decision["context"]))
        assert sum(json.loads(decision["channel_probs"]).values()) == pytest.approx(1.0)
        assert decision["channel"] in json.loads(decision["exposure_probs"])  # lets other policies be valued


def test_the_notebook_runs(first_day: Walked, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat, nbclient and ipykernel are in the extra dev")
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLE / "first-day.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = re.sub(r"^EPOCHS = \d+", "EPOCHS = 2", cell.source, flags=re.MULTILINE)
    monkeypatch.setenv("PYTHONPATH", first_day.terminal.environment["PYTHONPATH"])
    resources = {"metadata": {"path": str(first_day.terminal.folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    for words in ("rows can be used", "per opportunity", "the same action", "opportunities"):
        assert words in printed, printed


def _module(path: Path) -> Any:
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
