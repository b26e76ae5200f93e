"""Reports how a pipeline run has ended, in the step's log and as metrics of the monitor's exporter."""

from kfp.dsl import PipelineTaskFinalStatus

from components.component import component


@component("report the end of the run", cached=False)
def notify(pipeline: str, runs: str, status: PipelineTaskFinalStatus) -> str:
    """Record the end of a run; returns its state and, after a failure, the failed step and the reason.

    Args:
        runs: Folder with the newest run of each pipeline; "" records nothing.
        status: State of the steps before this one, as KFP reports it.
    """
    from datetime import UTC, datetime
    from pathlib import Path

    from components.notify.run_end import run_end
    from monitoring.pipeline_runs import PipelineRun
    from mtorl.runtime.step import notes, step

    with step():
        state, otherwise = run_end(status.state, status.error_message)
        run = PipelineRun.ended(pipeline, state, notes(), otherwise, datetime.now(UTC))
        if runs:
            run.write(Path(runs))
        print(run)
        return str(run)
