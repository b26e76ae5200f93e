"""Options, errors and JSON output that the commands of `mtorl experiment` share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.endings import exit_codes, naming_the_manual, stop

if TYPE_CHECKING:
    from pipelines.experiments.folder import ExperimentFolder

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file.")]
FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="The experiment files.")]
StateOption = Annotated[
    Path | None, typer.Option(help="Folder of its state; by default that file without its suffix, as of mtorl serve.")
]
OwnDataset = Annotated[str | None, typer.Option(help="The data set's description. None: that of mtorl serve.")]
ByOption = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="Also by segment, of this column; may be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, with all figures, in place of words.")]


def folders(files: Sequence[Path], state: Path | None, dataset: str | None) -> list[ExperimentFolder]:
    """Where the experiments of some files are."""
    from pipelines.experiments.folder import ExperimentFolder

    if state is not None and len(files) > 1:
        stop("--state is that of one experiment: name one file", 2)
    return [ExperimentFolder.of(file, state, dataset) for file in files]


def check_router(folder: ExperimentFolder) -> None:
    """Refuse to say that something is in force which the router does not read."""
    if folder.router_reads_file():
        stop(
            f"{folder.state}: its router was started when {folder.file.name} had no ramp, and reads that file itself: "
            "`enabled: false` there is its kill switch, `stage` its stage. To use this command, give it a ramp and "
            "start mtorl serve again",
            2,
        )


def shares_in_words(shares: dict[str, float]) -> str:
    """Which share of the users each arm has."""
    return ", ".join(f"{arm} {share:.0%}" for arm, share in shares.items())


@contextmanager
def input_errors(*failed: type[Exception]) -> Iterator[None]:
    """Set exit codes as `exit_codes`, and name the manual of an experiment file."""
    with exit_codes(*failed), naming_the_manual():
        yield


def print_json(found: Any) -> None:
    """Print something as JSON, and nothing else: `--json > file` keeps it."""
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
