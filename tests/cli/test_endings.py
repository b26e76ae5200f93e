"""Error messages and exit codes of commands."""

import os
import signal
import time

import pytest
import typer

from cli.commands import examples
from cli.endings import exit_codes
from mtorl.runtime.errors import InputError


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("no row"), 2), (OSError("no file"), 2), (ArithmeticError("no step"), 1), (typer.Exit(3), 3)],
    ids=repr,
)
def test_an_error_users_can_fix_is_one_line(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, exit_codes(RuntimeError, ArithmeticError):
        raise error
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == ("" if code == 3 else f"mtorl: {error}\n")


def test_an_internal_error_shows_its_traceback() -> None:
    with pytest.raises(KeyError), exit_codes():
        raise KeyError("a bug")


def test_a_signal_that_a_library_turned_into_an_error_still_stops(capsys: pytest.CaptureFixture[str]) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(typer.Exit) as ended, exit_codes(stopped="stopped; resume"):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            except KeyboardInterrupt:
                raise ValueError("query interrupted") from None
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "mtorl: stopped; resume\n"


def test_only_examples_in_help_keep_their_line_breaks() -> None:
    text = """Words.

        mtorl one
        mtorl two

    More words.
    """
    assert examples(text).splitlines() == ["Words.", "", "\b", "    mtorl one", "    mtorl two", "", "More words."]
