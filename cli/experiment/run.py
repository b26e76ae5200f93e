"""The commands `mtorl experiment run`, `status` and `operator`, which run the stages and show the state."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import messages
from cli.commands import JsonOption, print_json
from cli.endings import HARM, HELD, exit_codes
from cli.experiment.shared import ByOption, FilesArgument, StateOption, check_router, folders

if TYPE_CHECKING:
    from monitoring.experiments.document import View
    from mtorl.experiment.stage_machine import Hold, Move


def run(
    files: FilesArgument,
    state: StateOption = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two reads of the log.")] = 60.0,
    once: Annotated[bool, typer.Option("--once", help="Read the log once, without serving a page, and exit.")] = False,
    host: Annotated[
        str, typer.Option(help="Address of the page, which has no login: all clients that reach it can read it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the page. 0 takes a free one.")] = 8088,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each event.")] = False,
) -> None:
    """Run the stages of experiments and serve a page about them, until they end or you press Ctrl-C.

        mtorl serve --experiment first-day.yaml          in one terminal
        mtorl experiment move first-day.yaml shadow
        mtorl experiment run first-day.yaml              in another: http://127.0.0.1:8088/
        curl -s http://127.0.0.1:8088/metrics            Prometheus gauges
        curl -s http://127.0.0.1:8088/experiments.json   the data of the page

    If you stop this command, the current stage stays active, and after a restart the command continues from the
    history. If you edit an experiment file, the change is applied within two seconds. An invalid file is reported and
    changes nothing. If the computer's clock is set forward, the new time counts only after an hour.

    If a file has no ramp, you set the stage in the file, and this command only serves the page.
    """
    with exit_codes():
        from monitoring.experiments.web import Unavailable, serving, site
        from pipelines.experiments.runner import Runner

        found = folders(files, state)
        for folder in found:
            if folder.router_reads_file() and folder.definition().ramp is not None:
                check_router(folder)

        def tell(name: str, step: Move | Hold | None, words: str) -> None:
            _tell(name if len(found) > 1 else "", step, words, as_json)

        def views() -> Sequence[View]:
            if not runner.views:
                raise Unavailable(messages.LOG_NOT_READ())
            return runner.views

        with ExitStack() as stack:
            runner = stack.enter_context(Runner(found, tell))
            if not once:
                url = stack.enter_context(serving(site(views, host), host, port))
                typer.echo(f"page  {url}   stop with Ctrl-C", err=as_json)
            while not runner.advance(strict=once) and not once:
                time.sleep(every)


def _tell(name: str, step: Move | Hold | None, words: str, as_json: bool) -> None:
    from mtorl.experiment.stage_machine import Hold, Move

    at = datetime.now(UTC)
    if not as_json:
        typer.echo(f"{at:%Y-%m-%d %H:%M:%S}  {name}{': ' if name else ''}{words}")
        return
    reasons = step.reasons if isinstance(step, Hold) else (step.reason,) if step is not None else ()
    said = {
        "at": at.isoformat(timespec="seconds"),
        **({"experiment": name} if name else {}),
        "to": step.to if isinstance(step, Move) else None,
        "reason": step.reason if isinstance(step, Move) else None,
        "waits": list(step.reasons) if isinstance(step, Hold) else [],
        "codes": [reason.code for reason in reasons],
        "problem": words if step is None else None,
    }
    typer.echo(json.dumps(said, ensure_ascii=False))


def status(
    files: FilesArgument,
    state: StateOption = None,
    by: ByOption = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page as a self-contained HTML file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the current state: next action, stage, users, effect, guardrails, money, history, next stage.

        mtorl experiment status first-day.yaml
        mtorl experiment status *.yaml                            short form: next action, stage and next stage of each
        mtorl experiment status first-day.yaml --json             the data of the tables and the page
        mtorl experiment status first-day.yaml --page first-day.html --by device

    This command changes nothing, and needs no running server. The page of --page is a single file without scripts. It
    contains neither the salt nor user ids, so you can share it. With several files, --json prints a list.

    Exit code 4: held until a person acts (users are not split as configured, a challenger fails or is slow, something
    can't be read). 5: rolled back or switched off. 0 otherwise. With several files, the highest of their codes.
    """
    with exit_codes():
        from cli.experiment.table import print_experiments
        from pipelines.experiments.evidence import view_of

        views = [view_of(folder, time.time(), by or ()) for folder in folders(files, state)]
        if page is not None:
            from monitoring.experiments.page import page as page_of
            from mtorl.runtime.files import replacing

            with replacing(page) as unfinished:
                unfinished.write_text(page_of(views), encoding="utf-8")
    if as_json:
        print_json(views[0] if len(views) == 1 else views)
    else:
        print_experiments(views)
    raise typer.Exit(max({"held": HELD, "harm": HARM}.get(view["advice"]["condition"], 0) for view in views))


def operator(
    dataset: Annotated[Path, typer.Option(help="The data set's description; each experiment must fit it.")],
    lake: Annotated[str, typer.Option(help="Folder or URI of the lake to which routers upload their logs.")],
    namespace: Annotated[str, typer.Option(help="Namespace of the experiments. Empty: the pod's.")] = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page and of routers' requests.")] = 8080,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two reads of the log.")] = 60.0,
    user_header: Annotated[
        str, typer.Option(help="HTTP header in which a gateway names the page's user, such as kubeflow-userid.")
    ] = "",
) -> None:
    """Run the stages of all Experiment objects in a Kubernetes namespace, as `run` does for files.

        mtorl experiment operator --dataset dataset.yaml --lake /mnt/mtorl/lake

    On a cluster, manifests/base/operator starts this command. Outside a cluster, it uses the configuration of kubectl.
    """
    from pipelines.experiments.cluster_api import ClusterApi
    from pipelines.experiments.operator.start import run as run_operator
    from serving.kubernetes_api import namespace_of_pod

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with exit_codes():
        api = ClusterApi(namespace or namespace_of_pod())
        run_operator(api, dataset, lake, port, every, user_header)
