"""Serves an experiment in a run: starts the servers, and sends the requests of held-out users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from pydantic import TypeAdapter

from mtorl.artifact.artifact import Artifact
from mtorl.artifact.artifact import load as load_artifact
from mtorl.log.dataset import DatasetSpec
from mtorl.log.propensity import logged_propensity
from mtorl.log.splits import split_of
from mtorl.log.touchpoints import DATASET_FILE, LOG_FILE
from mtorl.runtime.errors import InputError
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.table import WindowTable
from pipelines.experiments.evidence import keep_replay
from pipelines.loop.config import DAYS_EACH, STAGES_BEFORE, LoopConfig
from pipelines.loop.ramp import RunRamp, experiment_of, port_of_models, ramp_for, write_file
from pipelines.loop.run_folder import set_aside
from pipelines.loop.traffic import LoadDriver, Traffic, Turn, in_parts
from pipelines.loop.traffic_sources import (
    RepeatedTraffic,
    ReplayedTraffic,
    ShiftedTraffic,
    SimulatedTraffic,
    TrafficSource,
)
from pipelines.steps import Step, StepTimes
from serving.local.ports import port_to_keep

if TYPE_CHECKING:
    from serving.local.stack import LocalStack

_AFTER_PROMOTION = 100
_SHIFTED = 500
_TRAFFIC: TypeAdapter[Any] = TypeAdapter(Traffic | None)
_PARTS = ("clean", "shifted", "promoted")


@dataclass(frozen=True)
class Trained:
    """Outputs of the training pipeline, in the folder of a run."""

    config: LoopConfig
    folder: Path

    @cached_property
    def spec(self) -> DatasetSpec:
        """Read the description of the run's data set."""
        return DatasetSpec.load(str(self.folder / "data" / DATASET_FILE))

    @cached_property
    def log(self) -> pd.DataFrame:
        """Read the validated touchpoint log."""
        return pd.read_parquet(self.folder / "data" / LOG_FILE)

    @cached_property
    def arms(self) -> dict[str, Artifact]:
        """Load the model artifact of each arm."""
        return {name: load_artifact(self.folder / "artifacts" / name) for name in ("incumbent", "challenger")}

    @property
    def replays(self) -> bool:
        """Return whether the traffic is a replay, as for every real log."""
        return bool(self.config.data)

    @property
    def explored(self) -> float:
        """Return the share of random decisions in both arms."""
        return 0.0 if self.replays else self.config.explore

    @cached_property
    def held_out_users(self) -> list[str]:
        """Return the users who are neither in the training set nor in the validation set."""
        users = self.log["user_id"].drop_duplicates()
        return sorted(users[split_of(users) == "test"])


@dataclass(frozen=True)
class Audience:
    """The users who send requests, and the touchpoints that they had before.

    Attributes:
        log_before: Touchpoints before the first request.
        simulator: The simulated market. A replay has none.
    """

    source: TrafficSource
    log_before: pd.DataFrame
    simulator: Simulator | None

    @classmethod
    def of(cls, trained: Trained) -> Audience:
        """Create the audience from a run's held-out users. Raises InputError if a replay would have no touchpoint."""
        return cls._replayed(trained) if trained.replays else cls._simulated(trained)

    @classmethod
    def _simulated(cls, trained: Trained) -> Audience:
        config, users = trained.config, trained.held_out_users
        simulator = Simulator(SimulatorConfig(users=config.users or SimulatorConfig.users, seed=config.seed))
        online = simulator.online(users, config.turns, config.seed)
        return cls(SimulatedTraffic(online, dict.fromkeys(users, config.turns)), trained.log, simulator)

    @property
    def opportunities(self) -> int:
        """Return the number of opportunities of all users."""
        return sum(self.source.opportunities.values())

    @classmethod
    def _replayed(cls, trained: Trained) -> Audience:
        config, spec, log = trained.config, trained.spec, trained.log
        windows = WindowTable.load(trained.folder / "windows").rows
        has_window = pd.MultiIndex.from_frame(windows[["user_id", "timestamp"]])
        propensity = pd.Series(logged_propensity(windows, spec), index=has_window)
        # Users that look like bots have touchpoints without a window.
        log = log[pd.MultiIndex.from_frame(log[["user_id", "timestamp"]]).isin(has_window)]
        propensity = propensity.loc[pd.MultiIndex.from_frame(log[["user_id", "timestamp"]])]
        users = trained.held_out_users
        source, log_before = ReplayedTraffic.from_log(log, propensity, users, config.turns, spec, config.seed)
        if not source.opportunities:
            raise InputError(
                f"{config.data}: no touchpoint of {len(users)} held-out users was drawn for the replay. Use a log with "
                "more users, or increase --rounds"
            )
        return cls(source, log_before, None)


_HEAD = """\
# The experiment of this run. A run takes minutes, so its stages have no minimum hours, and decisions count at once.
# With real traffic, a stage takes days (`hours`), and `outcome_hours` is the time until outcomes are known. Use this
# file with the commands of `mtorl experiment`; the applied version and the history are in serving/.
"""


@dataclass(frozen=True)
class Experiment:
    """Settings of a run's experiment. Both arms share one budget in proportion to their users.

    Attributes:
        budget: Budget per decision in currency units, equal for both arms.
        limit: Total budget of both arms in currency units.
        mean_cost: Mean cost of a logged exposure in currency units.
        price: Initial price for pacing the budget. It is the log's gain per currency unit.
    """

    budget: float
    limit: float
    mean_cost: float
    price: float

    @classmethod
    def of(cls, trained: Trained, audience: Audience) -> Experiment:
        """Compute the settings from the log."""
        config, log = trained.config, trained.log
        mean_cost, mean_gain = float(log["cost"].mean()), float(trained.spec.reward.gain.of(log).mean())
        budget = config.budget_share * mean_cost
        # A replay knows only the costs of matching exposures, so set a limit that the ledger never reaches. The verdict
        # applies the budget instead.
        never_binding = 2 * max(trained.arms["challenger"].model["cost_cap"].values())
        per_decision = never_binding if trained.replays else budget
        price = mean_gain / mean_cost if mean_gain > 0 and mean_cost > 0 else 1.0
        return cls(budget, audience.opportunities * per_decision, mean_cost, price)

    def write(self, trained: Trained, audience: Audience) -> None:
        """Write the experiment file ``serving.yaml``, and apply it as a draft."""
        # A run takes minutes, so the budget is paced by opportunities and not by the hour.
        pacing = None if trained.replays else {"price": self.price, "opportunities": audience.opportunities}
        margin = round(0.25 * self.mean_cost, 6)
        users = len(audience.source.opportunities)
        models = f"http://127.0.0.1:{port_to_keep()}"
        explore = {"share": trained.explored, "scope": "both"} if trained.explored else None
        content = {
            "name": "mtorl-vs-frequency",
            "enabled": True,
            "salt": f"mtorl-{trained.config.seed}",
            "unit": "user_id",
            "layer": "channel-policy",
            "ramp": ramp_for(users, len(in_parts(audience.source, STAGES_BEFORE)[0])),
            "arms": [
                {"name": name, "weight": 0.5, "endpoint": models, "model_digest": artifact.digest, "explore": explore}
                for name, artifact in trained.arms.items()
            ],
            "default_channel": trained.arms["challenger"].model["default_channel"],
            "budgets": [{"campaign": "*", "channel": "*", "amount": round(self.limit, 6), "pacing": pacing}],
            "metrics": {
                "primary": "gain_per_decision",
                "secondary": ["exposure_ratio"],
                "guardrails": [{"name": "cost_per_decision", "direction": "down", "margin": margin}],
                # The verdict is computed when all outcomes are known.
                "outcome_hours": None,
            },
            "alpha": 0.05,
            "min_runtime_hours": 0,
            "owner": "ads-platform",
        }
        write_file(trained.folder, _HEAD + yaml.safe_dump(content, sort_keys=False))


@dataclass(frozen=True)
class Served:
    """The traffic that a run has sent.

    Attributes:
        shifted: Traffic with a shifted context, which tests the monitor.
        promoted: Traffic after the promotion. None means that there was no promotion.
    """

    clean: Traffic
    shifted: Traffic
    promoted: Traffic | None
    ramp: RunRamp

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON that `from_json` can read."""
        traffic = {name: _TRAFFIC.dump_python(getattr(self, name), mode="json") for name in _PARTS}
        return {**traffic, "waits": self.ramp.waits}

    @classmethod
    def from_json(cls, content: dict[str, Any], run: Path) -> Served:
        """Restore the traffic of a run that is resumed."""
        ramp = RunRamp(experiment_of(run))
        ramp.waits = tuple(content["waits"])
        return cls(**{name: _TRAFFIC.validate_python(content[name]) for name in _PARTS}, ramp=ramp)


def fill_store(trained: Trained, audience: Audience) -> None:
    """Write the users' histories before their first request into the online store."""
    from features.offline.store import define, materialize
    from mtorl.window.window import STATIC

    features, data, users = trained.folder / "features", trained.folder / "data", set(audience.source.opportunities)
    define(features, trained.spec)
    if newcomers := users - set(audience.log_before["user_id"]):
        # New users have static columns but no touchpoints.
        materialize(features, trained.spec, data / LOG_FILE, users=newcomers, views=[STATIC])
    audience.log_before.to_parquet(data / "online.parquet", index=False)
    materialize(features, trained.spec, data / "online.parquet", users=users)


def prepare(trained: Trained, audience: Audience, experiment: Experiment, times: StepTimes) -> None:
    """Fill the online store and write the experiment file, so that `mtorl serve` can serve the run."""
    with times.step("materialise", "materialise online features"):
        if (trained.folder / "serving").exists():
            set_aside(trained.folder)
        fill_store(trained, audience)
    experiment.write(trained, audience)


def serve(trained: Trained, audience: Audience, experiment: Experiment, times: StepTimes) -> Served:
    """Start the servers of a run, send all traffic, and stop the servers."""
    from features.online.open_history import open_history
    from serving.local.stack import RUNTIMES, LocalStack, Own

    run, source = trained.folder, audience.source
    folder = experiment_of(run)
    ramp = RunRamp(folder)
    ramp.start()
    own = Own({folder.file.name: folder.in_force}, folder.state)
    stack = LocalStack(run, own, models_port=port_of_models(folder), runtime=trained.config.runtime)
    with open_history(run / "features", trained.spec) as history:
        with times.step("start-serving", f"start {RUNTIMES[trained.config.runtime]} and the router"):
            stack.start()
        try:
            driver = LoadDriver(stack.url, history)
            budget = experiment.budget if trained.replays else None
            clean = _through_stages(driver, stack, ramp, in_parts(source, STAGES_BEFORE), source, budget, times)
            promoted = None
            if ramp.phase == "promoted":
                again = RepeatedTraffic(source, _AFTER_PROMOTION)
                promoted = _send(driver, again, Step("traffic-promoted", "traffic after the promotion"), times)
            reference = trained.arms["challenger"].reference()
            shifted = ShiftedTraffic(source, _SHIFTED, DAYS_EACH, spec=trained.spec, reference=reference)
            step = Step("traffic-shifted", "traffic with a shifted context")
            served = Served(clean, _send(driver, shifted, step, times), promoted, ramp)
            stack.wait_for_lake()
            return served
        finally:
            stack.stop()


def _through_stages(
    driver: LoadDriver,
    stack: LocalStack,
    ramp: RunRamp,
    parts: list[list[Turn]],
    source: TrafficSource,
    budget: float | None,
    times: StepTimes,
) -> Traffic:
    """Send the traffic in parts, and let the ramp make its next move after each part."""
    traffic, step, total = Traffic(), Step("traffic-live", "A/B traffic"), sum(map(len, parts))
    times(step, 0, total, "")
    while parts and not ramp.over:
        phase, last = ramp.phase, ramp.at_last_stage
        # Send all remaining traffic at the last stage, so that enough users remain for estimating the lift.
        now, parts = (parts, []) if last else (parts[:1], parts[1:])
        on_done = _reporting(times, step, total, f"stage {phase}, ")
        driver.send(source, "live", on_done, list(chain.from_iterable(now)), traffic)
        if budget is not None:
            keep_replay(ramp.folder, traffic.weight_table(), budget)
        stack.wait_for_lake()
        ramp.step()
        if not ramp.waits:
            stack.wait_for_experiment()
    if not ramp.over and not ramp.waits:
        ramp.step()
    times(step, total, total, f"stage {ramp.phase}, {traffic.note()}")
    # Harm may have ended the experiment before all opportunities were sent.
    traffic.check(traffic.done)
    return traffic


def _reporting(times: StepTimes, step: Step, total: int, note: str = "") -> Callable[[Traffic], None]:

    def on_done(traffic: Traffic) -> None:
        if traffic.done % 20 == 0:
            times(step, min(traffic.done, total - 1), total, note + traffic.note())

    return on_done


def _send(driver: LoadDriver, source: TrafficSource, step: Step, times: StepTimes) -> Traffic:
    total = sum(source.opportunities.values())
    times(step, 0, total, "")
    traffic = driver.send(source, step.name.removeprefix("traffic-"), _reporting(times, step, total))
    times(step, total, total, traffic.note())
    traffic.check(total)
    return traffic
