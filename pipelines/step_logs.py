"""What the steps of a run on a Kubeflow Pipelines server have printed.

KFP's API has a log for each attempt of each container, and does not say which step that is: its log does.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.kfp_errors import RequestError
from pipelines.run_state import ENDED, attempts, failed_attempts, step_in, steps_among
from pipelines.server import Server


@dataclass(frozen=True)
class StepLog:
    """What the last attempt of a step has printed.

    Attributes:
        ended: Whether the step prints nothing more.
    """

    step: str
    text: str
    ended: bool


def logs(server: Server, run_id: str, step: str = "") -> list[StepLog]:
    """Logs of a run.

    Args:
        server: Where it runs.
        run_id: The run.
        step: Whose log, as `mtorl pipeline status` names it; empty for all steps that have failed.

    Returns:
        One for each step. The text is empty of a step that has printed nothing: it is cached, skipped or waits.

    Raises:
        RequestError: the run has no such step, or has not come to it.
        ServerError: there is no such run, or the server refuses.
    """
    run, tasks = server.run_with_tasks(run_id)
    if not step:
        texts = [server.log(run_id, node) for node in failed_attempts(tasks)]
        return [StepLog(step_in(text), text, True) for text in texts]
    states = {task.display_name: str(task.state) for task in steps_among(tasks)}
    if step not in states:
        raise RequestError(f"run {run_id} has no step {step!r} so far; it has {', '.join(states) or 'none'}")
    ended = states[step] in ENDED or run.state in ENDED
    newest_first = (server.log(run_id, node) for node in reversed(attempts(tasks)))
    return [StepLog(step, next((text for text in newest_first if step_in(text) == step), ""), ended)]


def last_lines(text: str, count: int) -> str:
    """The end of a log.

    Args:
        text: The log.
        count: Of lines; 0 for all.
    """
    return "".join(text.splitlines(keepends=True)[-count:])
