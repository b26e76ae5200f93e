"""The commands `mtorl ledger agree`, which accepts a new ledger, and `mtorl ledger wait`, which waits for one."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cli.commands import CommandGroup
from cli.endings import exit_codes

app = CommandGroup("Accept a new budget ledger after a loss, or wait for one at startup.")

Settings = Annotated[Path, typer.Argument(metavar="ROUTER.yaml", help="The router's settings: its ledger and log.")]


@app.command()
def agree(settings: Settings) -> None:
    """Accept a new ledger after the old one was lost, although the new one does not contain the money already spent.

        mtorl ledger agree /etc/mtorl/config/router.yaml

    If a ledger was deleted, emptied or replaced, its routers stop spending, because a new ledger would grant the whole
    budget again. If you have a copy of the old ledger, restore it. Otherwise, lower the budgets by the amounts already
    spent, and run this command.

    You need not stop the routers. They spend again within a second. The printed sum covers all routers that share the
    lake.
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
    typer.echo(f"{ledger}: accepted; the costs in {found.lake} and {found.spool} add up to {spent:g}")


@app.command()
def wait(settings: Settings) -> None:
    """Wait until the first router has created the accounts of the shared ledger. Other routers start after that.

        mtorl ledger wait /etc/mtorl/config/router.yaml

    Without this command, a router that starts could not tell an empty new ledger from a lost one, and would grant the
    whole budget again.
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
