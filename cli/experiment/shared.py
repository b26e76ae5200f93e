"""Options that the commands of `mtorl experiment` share, and what they have to do with a router."""

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
    Path | None, typer.Option(help="Folder of its state; by default that file without its suffix, as of mtorl serve.")
]
ByOption = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="Also by segment, of this column; may be repeated.")
]


def folders(files: Sequence[Path], state: Path | None) -> list[ExperimentFolder]:
    """Folders of the experiments of some files."""
    from pipelines.experiments.folder import ExperimentFolder

    if state is not None and len(files) > 1:
        stop("--state is that of one experiment: name one file", 2)
    return [ExperimentFolder.of(file, state) for file in files]


def check_router(folder: ExperimentFolder) -> None:
    """Refuse if the router does not read the experiment."""
    if folder.router_reads_file():
        stop(
            f"{folder.state}: its router was started when {folder.file.name} had no ramp, and reads that file itself: "
            "`enabled: false` there is its kill switch, `stage` its stage. To use this command, give it a ramp and "
            "start mtorl serve again",
            2,
        )


def shares_in_words(shares: dict[str, float]) -> str:
    """Share of the users of each arm, in words."""
    return ", ".join(f"{arm} {share:.0%}" for arm, share in shares.items())
