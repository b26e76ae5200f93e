"""Defines a command group with help texts from docstrings, and options that several commands share."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


class CommandGroup(typer.Typer):
    """A Typer group in which the docstring of each command is its help text."""

    def __init__(self, help: str = "", **settings: Any) -> None:
        super().__init__(help=examples(help), no_args_is_help=True, rich_markup_mode=None, **settings)

    def command(  # type: ignore[override]
        self, name: str | None = None, **settings: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a command to the group, as `typer.Typer.command` does."""

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            add_to_group = super(CommandGroup, self).command(name, help=examples(function.__doc__ or ""), **settings)
            return add_to_group(function)

        return add


def examples(text: str) -> str:
    """Mark the indented paragraphs of a help text, so that Typer keeps their line breaks."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(f"\b\n{part}" if part.startswith("    ") else part for part in paragraphs)


def _built_in(start: str) -> list[str]:
    """List the built-in data sets for shell completion, without the slow import of mtorl."""
    folder = Path(__file__).parents[1] / "mtorl" / "log" / "datasets"
    return sorted(path.stem for path in folder.glob(f"{start}*.yaml"))


DATASET_OPTION = typer.Option(
    help="Built-in data set name, or the path of its YAML description.", autocompletion=_built_in
)
Dataset = Annotated[str, DATASET_OPTION]
Users = Annotated[
    int, typer.Option(help="Users to simulate (0: 6000), or to keep from a real log (0: all of them).", min=0)
]
Epochs = Annotated[int, typer.Option(help="Maximum epochs of training; early stopping may need fewer.", min=1)]
Seed = Annotated[int, typer.Option(help="Random seed.", min=0)]
Trusted = Annotated[bool, typer.Option("--trusted", help="Do not check the rows of a log in canonical Parquet.")]
BadRows = Annotated[
    Literal["fail", "quarantine"],
    typer.Option(help="fail: stop if a row is faulty. quarantine: set faulty rows aside and continue."),
]
OwnDecisions = Annotated[
    str, typer.Option(metavar="LAKE", help="Add the decisions of this lake (folder or URI) to the log.")
]
Explore = Annotated[
    float,
    typer.Option(
        help="Share of both arms' decisions made at random, so that the next model learns from them. 0: none.",
        min=0,
        max=1,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")]


def print_json(found: Any) -> None:
    """Print an object as indented JSON on standard output."""
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
