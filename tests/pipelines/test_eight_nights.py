"""Test of eight days and nights with the default settings, in a small simulated market.

By day, the newest promoted model serves. By night, a new model is trained and may be promoted.
"""

import json
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import yaml

from features.offline.store import materialize
from features.online.open_history import open_history
from mtorl.artifact.artifact import load
from mtorl.artifact.lineage import GateDecision
from mtorl.log import trainings
from mtorl.log.lake import Lake, lake_database
from mtorl.log.opportunities import contexts
from mtorl.policy.exploration import EXPLORE
from mtorl.runtime.snapshots import located
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from mtorl.window.window import STATIC
from pipelines.loop.traffic import LoadDriver
from pipelines.loop.traffic_sources import SimulatedTraffic
from pipelines.on_volume import Ended
from serving.ledger.sqlite_ledger import SqliteLedger
from serving.local.ports import port_to_keep
from serving.local.stack import LocalStack, Own
from serving.registry import folder_of
from tests.experiments import experiment
from tests.pipelines.forked_steps import forked_steps, silent
from tests.pipelines.test_faulty_nights import Volume

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]

NIGHTS, KEPT, ROUNDS = 8, 3, 8
LOGGED, EACH = 800, 150  # users in the log; newcomers per day
DECISIONS = NIGHTS * EACH * ROUNDS


class Nights(Volume):
    """A volume whose newest promoted model serves new users each day, with one budget for all days."""

    def __init__(self, folder: Path) -> None:
        self.market = Simulator(SimulatorConfig(users=LOGGED + NIGHTS * EACH, days=8, seed=5))
        every, self.ids = self.market.log(), self.market.user_ids
        log = every[every["user_id"].isin(self.ids[:LOGGED])]
        super().__init__(folder, log)
        self.logged, self.budget = len(log), float(0.6 * log["cost"].mean() * DECISIONS)
        self.price = float(log["click"].sum() / log["cost"].sum())
        self.lake, self.features = Lake.open(folder / "lake"), folder / "features"
        # Static columns are known before these users make their first request.
        self.newcomers = folder / "newcomers.parquet"
        every[~every["user_id"].isin(self.ids[:LOGGED])].to_parquet(self.newcomers)

    def train(self) -> tuple[Ended, trainings.Training]:
        settings = {"epochs": "3", "settings": "{hidden: 16, levels: 1, heads: 1}", "keep_versions": str(KEPT)}
        ended = self.night(silent, **settings, min_lift="0")
        return ended, trainings.read(self.folder / "trainings")[-1]

    def serve_newest(self) -> str:
        artifact = folder_of(self.folder / "registry", None)
        assert artifact is not None
        archive = artifact.parent / "model-store" / "challenger.mar"
        for link, target in (("artifacts/challenger", artifact), ("model-store/challenger.mar", archive)):
            (self.folder / link).parent.mkdir(exist_ok=True)
            (self.folder / link).unlink(missing_ok=True)
            (self.folder / link).symlink_to(target)
        return load(artifact).digest

    def stack(self) -> LocalStack:
        port = port_to_keep()
        arms = [{"name": n, "weight": w, "explore": {"share": EXPLORE}} for n, w in (("incumbent", 1), ("other", 0))]
        pacing = {"price": self.price, "opportunities": DECISIONS}
        budget = {"campaign": "*", "channel": "*", "amount": self.budget, "pacing": pacing}
        endpoint, file = f"http://127.0.0.1:{port}/v1/models/challenger:predict", self.folder / "loop.yaml"
        file.write_text(yaml.safe_dump(experiment(endpoint, stage="5%", arms=arms, budgets=[budget])))
        own, slow = Own({file.name: file}, self.folder / "serving"), {"deadline_ms": 20_000.0}
        return LocalStack(self.folder, own, models_port=port, runtime="predictor", settings=slow)

    def records(self, kind: str) -> pd.DataFrame:
        with lake_database(self.lake) as db:
            return db.execute(f"FROM {self.lake.records(db, kind)}").df()

    def kept_bytes(self) -> int:
        folders = (self.folder / name for name in ("registry", "runs", "trainings"))
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())

    def spent(self) -> float:
        """Return the spend, after checking that it is within the limit."""
        ledger = SqliteLedger(self.folder / "serving" / "ledger.sqlite")
        (whole,) = (balance for balance in ledger.balances() if balance.arm == "*")
        ledger.close()
        assert whole.spent + whole.excess <= whole.limit == pytest.approx(self.budget) and whole.reserved == 0.0
        return whole.spent + whole.excess


def test_eight_nights_of_the_default_loop(tmp_path: Path) -> None:
    nights = Nights(tmp_path / "volume")
    with forked_steps():
        _, first = nights.train()
        assert first.decision == "promote", f"a model should easily beat the log's channel frequencies: {first.reason}"
        served, published, kept = nights.serve_newest(), nights.versions(), [nights.kept_bytes()]
        materialize(nights.features, nights.market.spec, nights.newcomers, views=[STATIC])
        with nights.stack() as stack, open_history(nights.features, nights.market.spec) as history:
            for night in range(NIGHTS):
                users = nights.ids[LOGGED + night * EACH :][:EACH]
                online = nights.market.online(users, ROUNDS, night, newcomers=True)
                source = SimulatedTraffic(online, dict.fromkeys(users, ROUNDS))
                traffic = LoadDriver(stack.url, history).send(source, f"day-{night}", silent)
                assert not traffic.errors and traffic.done == EACH * ROUNDS
                stack.wait_for_lake()
                decisions, outcomes = nights.records("decision"), nights.records("outcome")
                today = decisions[decisions["user_id"].isin(users)]
                assert len(today) == EACH * ROUNDS and len(decisions) == (night + 1) * EACH * ROUNDS
                assert set(today["model_digest"].dropna()) == {served}, "only the promoted model may serve"
                assert today["fallback_reason"].isna().mean() > 0.95, "a few fallbacks are allowed on a busy machine"
                assert today["propensity"].between(0, 1, inclusive="right").all()
                assert set(outcomes["decision_id"]) <= set(decisions["decision_id"]), "no outcome without its decision"
                costs = outcomes[outcomes["kind"] == "cost"]
                assert nights.spent() == pytest.approx(costs["value"].sum())

                ended, noted = nights.train()
                assert noted.decision in get_args(GateDecision) and noted.reason, "the reason must be recorded"
                assert ended.cached == (), "each night has new data, so no step is cached"
                read = ended.steps["ingest"].values
                assert read["rows"] + read["quarantined"] == nights.logged + costs["decision_id"].nunique()
                new = set(nights.versions()) - set(published)
                assert len(new) == (noted.decision != "reject"), f"the gate decides on publishing: {noted.reason}"
                published += new
                if noted.decision == "promote":
                    served = nights.serve_newest()
                    stack.restart_models()
                kept.append(nights.kept_bytes())
                judged = json.loads(ended.steps["evaluate"].paths["evaluation"].read_text())
                assert judged["incumbent_is"] == "own_model"
                assert not any(judged["value"]["impossible"].values()), "exploration makes every exposure possible"
    newest = load(ended.steps["train-challenger"].paths["model"])
    assert judged["valued_on"] == newest.metrics["priced_on"] == "opportunities", "own decisions must be used"
    asked = contexts(located(ended.steps["build-features"].paths["windows"]), newest.spec, "train")
    own, of_asked = (of.groupby("user_id")["hour"].agg(set) for of in (newest.reference(), asked))
    assert all(any(some <= hours for hours in of_asked) for some in own), "the drift reference must come from requests"
    explored = pd.json_normalize(decisions["exploration"].map(json.loads).tolist())
    assert set(explored["share"]) == {EXPLORE}
    assert abs(explored["explored"].sum() - EXPLORE * DECISIONS) < 4 * (EXPLORE * (1 - EXPLORE) * DECISIONS) ** 0.5
    assert kept[-1] - kept[NIGHTS // 2] < 2 * kept[0], "stored files must not grow with the number of nights"
    needed = {*published[-KEPT:], *decisions["model_digest"].dropna(), served}
    assert set(nights.versions()) <= needed, "the newest versions stay, and those with decisions in the lake"
    assert len(list((nights.folder / "runs" / "local").iterdir())) <= 4
