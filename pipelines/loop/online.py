"""The online part of the loop: an experiment of both arms, served to users that neither was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import yaml

from mtorl.artifact.artifact import Artifact
from mtorl.artifact.artifact import load as load_artifact
from mtorl.log.dataset import DatasetSpec
from mtorl.log.propensity import logged_propensity
from mtorl.log.splits import split_of
from mtorl.log.touchpoints import DATASET_FILE, LOG_FILE
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.table import WindowTable
from pipelines.local import InputError
from pipelines.loop.config import LoopConfig
from pipelines.loop.traffic import LoadDriver, Traffic
from pipelines.loop.traffic_sources import ReplayedTraffic, ShiftedTraffic, SimulatedTraffic, TrafficSource
from pipelines.steps import Step, StepTimes


@dataclass(frozen=True)
class Trained:
    """What the training pipeline has left in a run's folder."""

    config: LoopConfig
    folder: Path

    @cached_property
    def spec(self) -> DatasetSpec:
        """Description of the run's data set."""
        return DatasetSpec.load(str(self.folder / "data" / DATASET_FILE))

    @cached_property
    def log(self) -> pd.DataFrame:
        """The validated touchpoint log."""
        return pd.read_parquet(self.folder / "data" / LOG_FILE)

    @cached_property
    def arms(self) -> dict[str, Artifact]:
        """Artifacts by arm."""
        return {name: load_artifact(self.folder / "artifacts" / name) for name in ("incumbent", "challenger")}

    @property
    def replays(self) -> bool:
        """Whether traffic is a replay of the log: only the simulator can answer what the log does not hold."""
        return bool(self.config.data)

    @cached_property
    def held_out_users(self) -> list[str]:
        """Users that were never trained on."""
        users = self.log["user_id"].drop_duplicates()
        return sorted(users[split_of(users) == "test"])


@dataclass(frozen=True)
class Audience:
    """Who comes online.

    Attributes:
        source: Their opportunities and answers.
        log_before: The touchpoint log as it stands before they do.
        simulator: The market that they live in; None for a replay.
    """

    source: TrafficSource
    log_before: pd.DataFrame
    simulator: Simulator | None

    @classmethod
    def of(cls, trained: Trained) -> Audience:
        """Take the held-out users of a run.

        Raises:
            InputError: So few of them are in the log that chance replays none.
        """
        return cls._replayed(trained) if trained.replays else cls._simulated(trained)

    @classmethod
    def _simulated(cls, trained: Trained) -> Audience:
        config, users = trained.config, trained.held_out_users
        simulator = Simulator(SimulatorConfig(users=config.users or SimulatorConfig.users, seed=config.seed))
        online = simulator.online(users, config.rounds, config.seed)
        return cls(SimulatedTraffic(online, dict.fromkeys(users, config.rounds)), trained.log, simulator)

    @property
    def opportunities(self) -> int:
        """Of all users together."""
        return sum(self.source.opportunities.values())

    @classmethod
    def _replayed(cls, trained: Trained) -> Audience:
        config, spec, log = trained.config, trained.spec, trained.log
        windows = WindowTable.load(trained.folder / "windows").rows
        has_window = pd.MultiIndex.from_frame(windows[["user_id", "timestamp"]])
        propensity = pd.Series(logged_propensity(windows, spec), index=has_window)
        # Without what the windows leave out: the rest of a user who is taken for a bot.
        log = log[pd.MultiIndex.from_frame(log[["user_id", "timestamp"]]).isin(has_window)]
        propensity = propensity.loc[pd.MultiIndex.from_frame(log[["user_id", "timestamp"]])]
        users = trained.held_out_users
        source, log_before = ReplayedTraffic.from_log(log, propensity, users, config.rounds, spec, config.seed)
        if not source.opportunities:
            raise InputError(
                f"{config.data}: none of the touchpoints of {len(users)} held-out users was drawn for the replay; "
                "use a log of more users, or more --rounds"
            )
        return cls(source, log_before, None)


@dataclass(frozen=True)
class Experiment:
    """The experiment of a run: both arms at 50 %, each with half of one budget.

    Attributes:
        budget: Currency units per decision, the same for both arms.
        limit: Currency units of both arms together, which the ledger never exceeds.
        mean_cost: Mean cost of a logged exposure, currency units.
        price: Gain of the log per currency unit: the price that pacing begins with.
    """

    budget: float
    limit: float
    mean_cost: float
    price: float

    @classmethod
    def of(cls, trained: Trained, audience: Audience) -> Experiment:
        """Give both arms a share of what always exposing would cost."""
        config, log = trained.config, trained.log
        mean_cost, mean_gain = float(log["cost"].mean()), float(trained.spec.reward.gain.of(log).mean())
        budget = config.budget_share * mean_cost
        # A replay knows the cost of matched exposures only, and an arm that agrees more with the log would run dry
        # sooner: there the ledger's limit never binds, and the verdict thins an arm that would spend over the budget.
        never_binding = 2 * max(trained.arms["challenger"].model["cost_cap"].values())
        per_decision = never_binding if trained.replays else budget
        price = mean_gain / mean_cost if mean_gain > 0 and mean_cost > 0 else 1.0
        return cls(budget, audience.opportunities * per_decision, mean_cost, price)

    def write(self, trained: Trained, audience: Audience) -> None:
        """Write the experiment file that the router reads: ``serving/experiment.yaml`` in the run's folder."""
        # Days go by in seconds here, so the clock of the pacing is the number of opportunities.
        pacing = None if trained.replays else {"price": self.price, "opportunities": audience.opportunities}
        margin = round(0.25 * self.mean_cost, 6)
        content = {
            "name": "mtorl-vs-frequency",
            "enabled": True,
            "salt": f"mtorl-{trained.config.seed}",
            "unit": "user_id",
            "layer": "channel-policy",
            "stage": "50%",
            "arms": [
                {"name": name, "weight": 0.5, "endpoint": "http://127.0.0.1", "model_digest": artifact.digest}
                for name, artifact in trained.arms.items()
            ],
            "default_channel": trained.arms["challenger"].model["default_channel"],
            "budgets": [{"campaign": "*", "channel": "*", "amount": round(self.limit, 6), "pacing": pacing}],
            "metrics": {
                "primary": "gain_per_decision",
                "secondary": ["exposure_ratio"],
                "guardrails": [{"name": "cost_per_decision", "direction": "down", "margin": margin}],
                "outcome_hours": None,  # the traffic is over when it is judged, and all of its outcomes are known
            },
            "alpha": 0.05,
            "min_runtime_hours": 0,
            "owner": "ads-platform",
        }
        path = trained.folder / "serving" / "experiment.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))


@dataclass(frozen=True)
class Served:
    """What has come of the experiment's own traffic, and of the traffic in a shifted context that follows it."""

    clean: Traffic
    shifted: Traffic


def fill_store(trained: Trained, audience: Audience) -> None:
    """Put into a run's online store what is known of the users before they come online, as the nightly job would.

    From then on the store learns of touchpoints as they happen.
    """
    from features.feature_repo.names import STATIC
    from features.offline.store import refresh

    features, data, users = trained.folder / "features", trained.folder / "data", set(audience.source.opportunities)
    if newcomers := users - set(audience.log_before["user_id"]):
        # Static columns are known before a user's first touchpoint.
        refresh(features, trained.spec, data / LOG_FILE, newcomers, views=[STATIC])
    audience.log_before.to_parquet(data / "online.parquet", index=False)
    refresh(features, trained.spec, data / "online.parquet", users)


def serve(trained: Trained, audience: Audience, times: StepTimes) -> Served:
    """Start the servers of a run, send them all traffic, and stop them.

    Args:
        trained: The run, with its experiment file written.
        audience: Who comes online.
        times: Told about every step.

    Raises:
        TrafficFailed: Too many requests failed.
    """
    from features.online.open_history import open_history
    from serving.local.stack import LocalStack

    run, spec, source = trained.folder, trained.spec, audience.source
    with times.step("materialise", "materialise online features"):
        fill_store(trained, audience)
    shifted = ShiftedTraffic(source, spec, trained.arms["challenger"].reference())
    stack = LocalStack(run)
    with open_history(run / "features", spec) as history:
        with times.step("start-serving", "start TorchServe and the router"):
            stack.start()
        try:
            driver = LoadDriver(stack.url, history, trained.config.concurrency)
            return Served(
                _send(driver, source, Step("traffic-live", "A/B traffic"), "live", times),
                _send(driver, shifted, Step("traffic-shifted", "traffic with a shifted context"), "shifted", times),
            )
        finally:
            stack.stop()


def _send(driver: LoadDriver, source: TrafficSource, step: Step, label: str, times: StepTimes) -> Traffic:
    total, done = sum(source.opportunities.values()), 0

    def on_done(traffic: Traffic) -> None:
        nonlocal done
        done += 1
        if done % 20 == 0:
            times(step, min(done, total - 1), total, f"{len(traffic.errors)} errors")

    times(step, 0, total, "")
    traffic = driver.send(source, label, on_done)
    times(step, total, total, f"{len(traffic.errors)} errors")
    traffic.check(total)
    return traffic
