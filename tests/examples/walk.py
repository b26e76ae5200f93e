"""Runs the commands of a page as a reader would, with a terminal for each server."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.repository import ROOT
from tests.waiting import eventually

SERVERS = ("mtorl serve", "python incumbent_server.py")
READY = re.compile(r"^ready|answers at", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    text: str
    output: str


def commands_of(page: str) -> list[Command]:
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Command(command, output))
    return found


def script_of(section: str) -> str:
    blocks = re.findall(r"^```(bash|console)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    commands = [
        text if kind == "bash" else "".join(re.findall(r"^\$ (.*\n)", text, re.MULTILINE)) for kind, text in blocks
    ]
    return "".join(commands)


class Terminal:
    """Runs commands in a folder, with `mtorl` and `python` of this environment."""

    def __init__(self, folder: Path, bin: Path) -> None:
        self.folder = folder
        bin.mkdir(exist_ok=True)
        for name, arguments in (("mtorl", "-P -m cli.main"), ("python", "")):
            (bin / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
            (bin / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{bin}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "COLUMNS": "120",
        }

    def run(self, command: str, seconds: float = 900) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{command}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def serving(self, command: str) -> Iterator[str]:
        log = self.folder / "server.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                f"exec {command}", shell=True, cwd=self.folder, env=self.environment, stdout=output, stderr=output
            )
        try:
            eventually(lambda: process.poll() is not None or READY.search(log.read_text()), 300, log.read_text)
            assert process.poll() is None, f"$ {command}\n{log.read_text()}"
            yield log.read_text()
        finally:
            process.send_signal(signal.SIGINT if command.startswith("mtorl") else signal.SIGTERM)
            process.wait(60)

    def walk(self, commands: Sequence[Command]) -> list[str]:
        """Run commands in order, and return their outputs.

        A server is stopped before the next server of its kind starts. The router is also stopped before its log is
        compacted.
        """
        printed: list[str] = []
        with ExitStack() as terminals:
            running = {server: terminals.enter_context(ExitStack()) for server in SERVERS}
            for command in commands:
                if command.text.startswith("mtorl data compact"):
                    running["mtorl serve"].close()
                server = next((server for server in SERVERS if command.text.startswith(server)), None)
                if server is None:
                    printed.append(self.run(command.text))
                else:
                    running[server].close()
                    printed.append(running[server].enter_context(self.serving(command.text)))
        return printed
