"""Reports the end of a run, for the monitor's exporter and in the log of the step."""

from kfp.dsl import PipelineTaskFinalStatus

from components.component import component


# Not cached, because each run has its own end.
@component("report the end of the run", cached=False)
def notify(pipeline: str, runs: str, status: PipelineTaskFinalStatus) -> str:
    """Record the end of a run; returns its state and, after a failure, the failed step and the reason.

    Args:
        runs: Folder with the newest run of each pipeline; "" for none.
        status: KFP's state of the steps before this one.
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
