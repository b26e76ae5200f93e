"""`mtorl ledger`: what people do with the budget ledger."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import CommandGroup
from cli.endings import exit_codes, stop

if TYPE_CHECKING:
    from serving.ledger.redis_ledger import RedisLedger

app = CommandGroup("The budget ledger: to Redis, and on after a loss.")

Redis = Annotated[str, typer.Argument(help="redis://HOST:PORT/DB?name=NAME; password in MTORL_LEDGER_PASSWORD.")]


@app.command()
def move(
    file: Annotated[Path, typer.Argument(help="The ledger's file.")],
    to: Annotated[str, typer.Argument(help="redis://HOST:PORT/DB?name=NAME; password in MTORL_LEDGER_PASSWORD.")],
) -> None:
    """Move a ledger from a file to Redis, for several routers: no money appears or vanishes.

        mtorl ledger move /var/lib/mtorl/ledger.sqlite 'redis://mtorl-ledger:6379/0?name=ads'

    No router may run meanwhile. A target that knows spend of its own is refused, the file spends nothing afterwards,
    and doing it again changes nothing, or goes on with a move that was stopped. A target that has lost what was moved
    there is refused: it would grant the whole budget again.
    """
    from serving.ledger.move_to_redis import NotMoved, move_to_redis

    with exit_codes(failed=(NotMoved,)):
        moved = move_to_redis(file, _redis(to))
    typer.echo(
        f"{'was moved before' if moved.before else 'moved'}: {moved.accounts} accounts, {moved.open_reservations} open "
        f"reservations; spent {moved.spent:g}, reserved {moved.reserved:g}, summed over all accounts and periods"
    )


@app.command()
def agree(
    settings: Annotated[Path, typer.Argument(metavar="ROUTER.yaml", help="The router's settings: its ledger and log.")],
) -> None:
    """Go on with a ledger that does not know what the decision log was paid for: the old one is lost for good.

        mtorl ledger agree /etc/mtorl/config/router.yaml

    A router whose ledger was deleted, emptied or replaced spends nothing: a new ledger would grant the whole budget
    again. Restore the old one if there is a copy. If not, lower the amounts of the budgets by what was spent, then
    agree; the router may run meanwhile, and spends within a second. What the log no longer holds is not in the sum.
    """
    from serving.ledger import LedgerUnavailable, open_ledger
    from serving.router.flow.ledger_of_log import agree as agree_to
    from serving.router.ops.settings import RouterSettings, SettingsError

    with exit_codes(unusable=(SettingsError,), failed=(LedgerUnavailable,)):
        found = RouterSettings.load(settings)
        ledger = open_ledger(found.ledger, patience=30.0)
        spent = agree_to(ledger, found.spool)
    typer.echo(f"{ledger}: the router goes on with it; the costs in {found.spool} add up to {spent:g}")


@app.command()
def wait(ledger: Redis) -> None:
    """Wait until a ledger in Redis has accounts: before that, only the first router may start, which brings them."""
    from serving.ledger import LedgerUnavailable

    opened, said = _redis(ledger), ""
    with exit_codes():
        while True:
            try:
                if opened.has_accounts():
                    return
                why = "has no accounts yet; the first router moves its own there, or makes new ones"
            except LedgerUnavailable as error:
                why = str(error)
            if why != said:
                typer.echo(f"waiting for {opened}: {why}")
            said = why
            time.sleep(1.0)


def _redis(where: str) -> RedisLedger:
    from serving.ledger import PASSWORD, RedisLocation, locate
    from serving.ledger.redis_ledger import RedisLedger

    try:
        location = locate(where)
    except ValueError as error:
        stop(str(error), 2)
    if not isinstance(location, RedisLocation):
        stop(f"{where}: expected the URL of a Redis", 2)
    return RedisLedger(location, os.environ.get(PASSWORD), patience=30.0)
