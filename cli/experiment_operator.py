"""The operator of experiments, which runs on a cluster: the manifests start it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from cli.endings import exit_codes
from cli.experiment_run import app


@app.command()
def operator(
    dataset: Annotated[Path, typer.Option(help="The data set's description, which each experiment must fit.")],
    log: Annotated[Path, typer.Option(metavar="FOLDER", help="Where each router exports its decision log.")],
    namespace: Annotated[str, typer.Option(help="Whose experiments. Empty: that of the pod.")] = "",
    config_map: Annotated[
        str, typer.Option(metavar="NAME", help="ConfigMap with what is in force.")
    ] = "mtorl-experiment",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where routers ask, over HTTP.")] = 8080,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the log.")] = 60.0,
) -> None:
    """Take the Experiment objects of a Kubernetes namespace through their stages.

        mtorl experiment operator --dataset dataset.yaml --log /mnt/mtorl/decision_log

    manifests/base/operator runs it. Outside of a cluster it uses kubectl's configuration.
    """
    from mtorl.log.dataset import SpecError
    from pipelines.experiments.operator.start import Settings, run
    from serving.kubernetes_api import namespace_of_pod

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    with exit_codes(unusable=(SpecError, OSError)):
        run(Settings(namespace or namespace_of_pod(), dataset, log, config_map, port, every))
