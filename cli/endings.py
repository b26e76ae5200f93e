"""Turns an error into a one-line message and an exit code.

    0    done
    1    a step failed
    2    the input is invalid
    3    `mtorl monitor`: there is drift, but it does no harm
    4    an experiment waits for a person; `mtorl model rm`: the version is still needed
    5    an experiment did harm or is switched off; `mtorl monitor`: drift does harm
    6    `mtorl monitor`: a check was impossible
    130  stopped by a signal

Other errors are bugs, and are shown with their traceback.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from mtorl.runtime.errors import InputError

HELD, HARM = 4, 5
"""Exit codes of `mtorl experiment status` and `mtorl experiment verdict`: 4 if the experiment is held, 5 if it does
harm."""

_signalled = False


def stop(message: str, code: int) -> NoReturn:
    """Print a message on standard error, and exit with this code."""
    typer.echo(f"mtorl: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def exit_codes(*failed: type[Exception], stopped: str = "stopped") -> Iterator[None]:
    """Exit with a one-line message and a code if the block raises an error that a user can fix.

    The code is 1 for the exceptions in `failed`, 2 for any other InputError or OSError, and 130 after Ctrl-C or
    SIGTERM.
    """
    _stop_on_signals()
    try:
        yield
    except typer.Exit:  # typer.Exit is a RuntimeError, but no failure
        raise
    except KeyboardInterrupt as error:
        stop(_words(stopped, error), 130)
    except Exception as error:
        # A signal during a DuckDB query raises an exception of DuckDB instead of KeyboardInterrupt.
        if _signalled:
            stop(_words(stopped, error), 130)
        if isinstance(error, (InputError, OSError, *failed)):
            from mtorl.experiment.experiment import ExperimentError

            if isinstance(error, ExperimentError):
                error.add_note("every field of the file: docs/experiment-file.md")
            stop(_words(str(error), error), 1 if isinstance(error, failed) else 2)
        raise


def _words(said: str, error: BaseException) -> str:
    return "\n".join([said, *getattr(error, "__notes__", ())])


def _stop_on_signals() -> None:
    global _signalled
    _signalled = False

    def interrupt(*_: object) -> NoReturn:
        global _signalled
        _signalled = True
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
