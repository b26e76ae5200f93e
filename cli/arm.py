"""The command `mtorl arm check`, which tests your own server before it becomes an arm of an experiment."""

from typing import Annotated

import typer

from cli.commands import CommandGroup, Dataset
from cli.endings import exit_codes

app = CommandGroup("Policies of your own, as arms of an experiment.")


@app.command()
def check(
    endpoint: Annotated[str, typer.Argument(metavar="URL", help="Endpoint, as in the experiment file.")],
    dataset: Dataset,
    name: Annotated[
        str, typer.Option(help="Name of the arm. If the endpoint has no path, the name becomes part of the URL.")
    ] = "challenger",
) -> None:
    """Test whether a server of your own can be an arm, by sending it valid and malformed requests as the router does.

        mtorl arm check http://my-policy:8080/decide --dataset my-log.yaml

    Exit code 0: the server can be an arm; the output lists optional fields that its answers lack. 1: the server has the
    printed faults, so its users would get the default action. docs/arm-protocol.md describes requests and answers.
    """
    with exit_codes():
        from mtorl.log.dataset import DatasetSpec
        from serving.arm_check import check_arm

        found = check_arm(endpoint, DatasetSpec.load(dataset), name)
    for finding in found:
        typer.echo(str(finding))
    faults = sum(finding.fault for finding in found)
    typer.echo(
        f"{endpoint}: {'not ready as an arm' if faults else 'can be an arm'}: {faults} faults, "
        f"{len(found) - faults} notes"
    )
    raise typer.Exit(1 if faults else 0)
