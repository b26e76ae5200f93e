"""Turns errors into one line that gives the reason, and an exit code.

0    done
1    a step failed
2    the input is invalid
3    `mtorl monitor`: drift without harm; 6: a check was impossible
4    an experiment is held until a person acts; `mtorl model rm`: the version is needed
5    an experiment did harm or is switched off; `mtorl monitor`: harm
130  stopped by a signal
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from mtorl.runtime.errors import InputError

HELD, HARM = 4, 5
"""Exit codes of `mtorl experiment status` and `verdict`."""

_signalled = False


def stop(message: str, code: int) -> NoReturn:
    """Print the reason on standard error and exit with a code."""
    typer.echo(f"mtorl: {message}", err=True)
    raise typer.Exit(code)


@contextmanager
def exit_codes(*failed: type[Exception], stopped: str = "stopped") -> Iterator[None]:
    """Turn errors that users can fix into one line and an exit code.

    The code is 1 for the exceptions in `failed`, which mean that a step failed, and 2 for any other InputError or
    OSError. Ctrl-C and SIGTERM print `stopped` and exit with 130. Both signals raise an exception, so cleanup runs even
    if the shell ignores SIGINT. Any other error prints its traceback.
    """
    _stop_on_signals()
    try:
        yield
    except typer.Exit:  # a subclass of RuntimeError, but not a failure
        raise
    except KeyboardInterrupt as error:
        stop(_words(stopped, error), 130)
    except Exception as error:
        if _signalled:  # DuckDB replaces KeyboardInterrupt by its own exception
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
