"""Steps of a run, made of the tasks that KFP's API lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from pipelines.run_state import StepState, failed_attempts, reason_in, step_in, step_states

START = datetime(2026, 11, 27, 6, 0, tzinfo=UTC)
NEVER = datetime(1, 1, 1, tzinfo=UTC)  # what the API says of an end that has not come


def task(name: str, state: str | None, start: int, end: int | None, *children: str) -> SimpleNamespace:
    ends = NEVER if end is None else START + timedelta(seconds=end)
    nodes = [SimpleNamespace(pod_name=child) for child in children]
    return SimpleNamespace(
        display_name=name, state=state, start_time=START + timedelta(seconds=start), end_time=ends, child_tasks=nodes
    )


TASKS = [
    task("run-abc", "RUNNING", 0, None),
    task("root-driver", "SUCCEEDED", 0, 5),
    task("root", "RUNNING", 5, None),
    task("build-features-driver", "SUCCEEDED", 40, 45),
    task("build-features", "FAILED", 45, 60, "run-abc-2"),
    task("executor", "FAILED", 45, 60, "run-abc-30", "run-abc-31"),
    task("executor(1)", "FAILED", 50, 60),
    task("ingest-driver", "SUCCEEDED", 20, 30),
    task("ingest-driver(0)", "SUCCEEDED", 20, 30),
    task("ingest", "SUCCEEDED", 30, 31),
    task("ingest(0)", "SUCCEEDED", 30, 31),
    task("executor", "SKIPPED", 30, 31),
    task("train-challenger-driver", "SUCCEEDED", 60, 65),
    task("train-challenger", "RUNNING", 65, None),
    task("executor", "RUNNING", 65, None),
    task("install-features-driver", "SUCCEEDED", 20, 30),
    task("install-features", "SUCCEEDED", 30, 56),  # beside a step that is cached
    task("executor", "SUCCEEDED", 30, 56),
    task("gate-driver", None, 70, 70),
    task("gate", None, 70, 70),  # after a failure the API lists what was to come, without a state
]


def test_a_step_is_what_has_a_driver_in_the_order_of_their_starts() -> None:
    now = START + timedelta(seconds=165)
    assert list(step_states(TASKS, {"build-features": "no memory"}, now)) == [
        StepState("ingest", "CACHED", 1),
        StepState("install-features", "SUCCEEDED", 26),
        StepState("build-features", "FAILED", 15, "no memory"),
        StepState("train-challenger", "RUNNING", 100),
        StepState("gate", "NOT RUN", 0),
    ]


def test_the_last_attempt_of_a_failed_step_is_the_one_to_look_at() -> None:
    assert failed_attempts(TASKS) == ["run-abc-31"]


def test_a_log_says_which_step_has_printed_it() -> None:
    assert step_in("[KFP Executor INFO]: Looking for component `build_features` in --component") == "build-features"
    assert step_in("") == ""


def test_a_step_that_says_what_is_wrong_is_quoted_without_the_launchers_lines() -> None:
    log = """[KFP Executor 2026-11-27 06:15:00 INFO]: Looking for component
mtorl: log.csv: 1 of 3 rows can't be used
log.csv: column 'cost': 1 row with a negative cost
Mend them
I1127 06:16:43.471100      14 launcher_v2.go:192] publish success.
F1127 06:16:43.471200      14 main.go:59] failed to execute component: exit status 1"""
    assert reason_in(log).splitlines() == [
        "log.csv: 1 of 3 rows can't be used",
        "log.csv: column 'cost': 1 row with a negative cost",
        "Mend them",
    ]


def test_of_a_traceback_the_last_line_counts_and_else_the_exit_status() -> None:
    log = """Traceback (most recent call last):
  File "x.py", line 1, in <module>
KeyError: 'a'

During handling of the above exception, another exception occurred:
mtorl.network.training.TrainingDiverged: the loss became NaN
I1127 06:16:43.471100      14 launcher_v2.go:192] publish success."""
    assert reason_in(log) == "mtorl.network.training.TrainingDiverged: the loss became NaN"
    killed = "F1127 06:28:56.939015      16 main.go:130] failed to execute component: exit status 137"
    assert reason_in(killed).startswith("killed (exit status 137): out of memory")
    assert reason_in("nothing of the kind") == reason_in("") == ""
