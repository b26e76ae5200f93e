"""Defines the options that the commands of `mtorl experiment` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.endings import stop

if TYPE_CHECKING:
    from pipelines.experiments.folder import ExperimentFolder

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file.")]
FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="The experiment files.")]
StateOption = Annotated[
    Path | None, typer.Option(help="State folder. Default: the file's path without its suffix, as for mtorl serve.")
]
ByOption = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="Also show segments by this column; may be repeated.")
]


def folders(files: Sequence[Path], state: Path | None) -> list[ExperimentFolder]:
    """Open the state folder of each experiment file."""
    from pipelines.experiments.folder import ExperimentFolder

    if state is not None and len(files) > 1:
        stop("--state needs exactly one experiment file", 2)
    return [ExperimentFolder.of(file, state) for file in files]


def check_router(folder: ExperimentFolder) -> None:
    """Exit with an error if commands can't change the experiment, because the router reads the file itself."""
    if folder.router_reads_file():
        stop(
            f"{folder.state}: the router was started when {folder.file.name} had no ramp, and reads it directly. "
            "Set `stage` and `enabled: false` (the kill switch) in the file, or add a ramp, restart mtorl serve, and "
            "use this command",
            2,
        )


def shares_in_words(shares: dict[str, float]) -> str:
    """Describe each arm's share of the users."""
    return ", ".join(f"{arm} {100 * share:.3g}%" for arm, share in shares.items())
