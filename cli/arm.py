"""`mtorl arm`: policies of one's own."""

from typing import Annotated

import typer

from cli.commands import CommandGroup, Dataset
from cli.endings import exit_codes

app = CommandGroup("Policies of your own, as arms of an experiment.")


@app.command()
def check(
    endpoint: Annotated[str, typer.Argument(metavar="URL", help="As the experiment file would name it.")],
    dataset: Dataset,
    name: Annotated[str, typer.Option(help="Name of the arm; in the URL if the endpoint has no path.")] = "challenger",
) -> None:
    """Check an endpoint with the router's requests, ordinary and malformed, and print its faults.

        mtorl arm check http://my-policy:8080/decide --dataset my-log.yaml

    Exit code 0: it can be an arm; what its decisions would lack in the log is noted. 1: users would get the default
    action, and why. What an arm receives and may answer: docs/arm-protocol.md.
    """
    with exit_codes():
        from mtorl.log.dataset import DatasetSpec
        from serving.arm_check import check_arm

        found = check_arm(endpoint, DatasetSpec.load(dataset), name)
    for finding in found:
        typer.echo(str(finding))
    faults = sum(finding.fault for finding in found)
    typer.echo(
        f"{endpoint}: {'no arm yet' if faults else 'can be an arm'}; {faults} faults, {len(found) - faults} notes"
    )
    raise typer.Exit(1 if faults else 0)
