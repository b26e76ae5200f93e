"""`mtorl ledger`: what people do with the budget ledger."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import CommandGroup
from cli.endings import exit_codes

app = CommandGroup("The budget ledger after a loss, and before the first router.")

Settings = Annotated[Path, typer.Argument(metavar="ROUTER.yaml", help="The router's settings: its ledger and log.")]


@app.command()
def agree(settings: Settings) -> None:
    """Go on with a ledger that does not know what the decision log was paid for: the old one is lost.

        mtorl ledger agree /etc/mtorl/config/router.yaml

    A router whose ledger was deleted, emptied or replaced spends nothing: a new ledger would grant the whole budget
    again. Restore the old one if there is a copy. If not, lower the amounts of the budgets by what was spent, then
    agree; the router may run meanwhile, and spends within a second. The sum is of all routers that share the lake.
    """
    from mtorl.log.lake import Lake
    from mtorl.log.touchpoints import LogError
    from serving.crash_recovery import agree as agree_to
    from serving.ledger import open_ledger
    from serving.ledger.contract import LedgerUnavailable
    from serving.router.ops.settings import RouterSettings

    with exit_codes(LedgerUnavailable, LogError):
        found = RouterSettings.load(settings)
        ledger = open_ledger(found.ledger, patience=30.0)
        spent = agree_to(ledger, found.spool, Lake.open(found.lake))
    typer.echo(f"{ledger}: the router goes on with it; the costs in {found.lake} and {found.spool} add up to {spent:g}")


@app.command()
def wait(settings: Settings) -> None:
    """Wait until the shared ledger has accounts: before that, only the first router may start, which makes them.

        mtorl ledger wait /etc/mtorl/config/router.yaml

    A new router does not know that a ledger was lost, and would grant the whole budget again.
    """
    from serving.ledger import open_ledger
    from serving.ledger.contract import LedgerUnavailable
    from serving.messages import NO_ACCOUNTS
    from serving.router.ops.settings import RouterSettings

    with exit_codes():
        ledger, said = open_ledger(RouterSettings.load(settings).ledger, patience=30.0), ""
        while ledger.shared:
            try:
                if ledger.identity() is not None:
                    return
                why: str = NO_ACCOUNTS(ledger=ledger)
            except LedgerUnavailable as error:
                why = str(error)
            if why != said:
                typer.echo(f"waiting for the ledger: {why}")
            said = why
            time.sleep(1.0)
