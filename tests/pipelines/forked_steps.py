"""Forks the steps of local pipelines from a process that has already imported everything.

kfp.local would start a new Python process for each step, and small steps would spend most of their time on imports.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

from tests.repository import ROOT

PRELOADED = (
    *("duckdb", "feast", "feast.infra.offline_stores.duckdb", "lightgbm", "onnxruntime", "torch", "torch.onnx"),
    *("kfp.dsl.executor_main", "features.offline.store", "features.collect.compact", "features.ingest.log_folder"),
    *("torch.export", "torch._dynamo", "torch.onnx._internal.exporter._core", "onnxscript"),
    *(
        "mtorl.evaluation.offline",
        "mtorl.fitting.fit",
        "serving.smoke_test",
        "serving.registry",
        "monitoring.verdict.period",
    ),
)
"""Modules that steps import. Only installed packages: a name that can't be found is skipped silently."""


def silent(*_: object) -> None:
    """Discard progress reports."""


@contextmanager
def forked_steps(prepare: Callable[[str], None] | None = None) -> Iterator[None]:
    """Run the steps of local pipelines in forked processes during the block.

    Each process first calls `prepare`, a module-level function, with the step's name.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()

    def run(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        name, arguments = full_command[3], full_command[4:]  # sh -ec SCRIPT NAME ARGUMENTS...
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "output")
            environment = {**os.environ, **(env_vars or {}), "_KFP_RUNTIME": "true"}
            process = context.Process(target=_execute, args=(name, arguments, environment, str(output), prepare))
            process.start()
            process.join()
            print(output.read_text())
            return int(process.exitcode or 0)

    with (
        mock.patch("kfp.local.subprocess_task_handler.run_local_subprocess", run),
        # Only the process that started the fork server may check its exit status.
        mock.patch.object(forkserver._forkserver, "ensure_running"),  # type: ignore[attr-defined]
    ):
        yield


def _execute(
    name: str, arguments: list[str], environment: dict[str, str], output: str, prepare: Callable[[str], None] | None
) -> None:
    with open(output, "w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.stdout = sys.stderr = file
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None
        module = ROOT / "components" / name / "component.py"
        sys.argv = ["executor_main", "--component_module_path", str(module), *arguments]
        if prepare:
            prepare(name.replace("_", "-"))
        _main()


def _main() -> Any:
    import traceback

    from kfp.dsl.executor_main import executor_main

    try:
        executor_main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code)
            sys.exit(1)
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
