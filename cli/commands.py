"""Groups of commands whose docstrings are their help, and the options that several commands share."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


class CommandGroup(typer.Typer):
    """Commands whose help is their docstring; what is indented there, commands to copy, keeps its lines."""

    def __init__(self, help: str = "", **settings: Any) -> None:
        super().__init__(help=examples(help), no_args_is_help=True, rich_markup_mode=None, **settings)

    def command(  # type: ignore[override]
        self, name: str | None = None, **settings: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a command, as `typer.Typer.command` does."""

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            add_to_group = super(CommandGroup, self).command(name, help=examples(function.__doc__ or ""), **settings)
            return add_to_group(function)

        return add


def examples(text: str) -> str:
    """A help text whose indented paragraphs, commands to copy, keep their lines."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(f"\b\n{part}" if part.startswith("    ") else part for part in paragraphs)


def _built_in(start: str) -> list[str]:
    """Names of data sets that begin with some letters; without an import of mtorl, since a shell waits for it."""
    folder = Path(__file__).parents[1] / "mtorl" / "log" / "datasets"
    return sorted(path.stem for path in folder.glob(f"{start}*.yaml"))


DATASET_OPTION = typer.Option(
    help="Built-in data set name, or the path of its YAML description.", autocompletion=_built_in
)
Dataset = Annotated[str, DATASET_OPTION]
Users = Annotated[int, typer.Option(help="Users to simulate, or to keep of a real log. 0: 6000, or all.", min=0)]
Epochs = Annotated[int, typer.Option(help="Most epochs of training; early stopping may need fewer.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0)]
Trusted = Annotated[
    bool, typer.Option("--trusted", help="The log is canonical Parquet, a file or a folder: don't check its rows.")
]
BadRows = Annotated[
    Literal["fail", "quarantine"],
    typer.Option(help="fail: stop at a faulty log. quarantine: go on without its faulty rows."),
]
OwnDecisions = Annotated[
    str, typer.Option(metavar="LAKE", help="Lake, a folder or URI, whose decisions are added to the log.")
]
Explore = Annotated[
    float,
    typer.Option(
        help="Share of the decisions that both arms leave to chance, so that the next model learns; 0: none.",
        min=0,
        max=1,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, with all figures, in place of words.")]


def print_json(found: Any) -> None:
    """Print something as JSON, and nothing else: `--json > file` keeps it."""
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
