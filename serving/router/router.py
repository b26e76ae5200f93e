"""All parts of the router, put together, started and stopped in the right order."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from mtorl.log.dataset import DatasetSpec
from mtorl.window.window import instance_from_history
from serving.decision_log import Spool
from serving.decision_log.shipper import Shipper
from serving.ledger import Account, LedgerUnavailable, open_ledger
from serving.router.flow import idempotency_cache
from serving.router.flow.admission import Admission
from serving.router.flow.arms import Arms
from serving.router.flow.decider import Decider
from serving.router.flow.drills import Drills
from serving.router.flow.features import FeastSource, FeatureReader, FeatureSource
from serving.router.flow.outcomes import OutcomeIntake
from serving.router.flow.pacer import Pacer
from serving.router.flow.requests import DecisionRequest
from serving.router.flow.settlement import Settler, reconcile
from serving.router.ops import metrics
from serving.router.ops.health import Health
from serving.router.ops.live_experiment import LiveExperiment
from serving.router.ops.settings import RouterSettings, SettingsError
from serving.router.ops.shipping import open_sink

log = logging.getLogger(__name__)

_OUTCOME_SECONDS = 1.0  # deadline of a report of outcomes
_TICK_SECONDS = 1.0  # between looks at the experiment file and the accounts
_WARM_SECONDS = 5.0
_SHIP_SECONDS = 3.0  # at the end, for what is not shipped yet
_LEDGER_THREADS = 8  # one for reservations, which are gathered; the others settle, and may share its commit


class Router:
    """The router without HTTP; `async with` opens and closes it.

    Args:
        settings: Settings.
        features: Where users are known, in place of the Feast repository of the settings.

    Raises:
        SettingsError, SpecError, ExperimentError, SpoolError: it can't start like this.
    """

    def __init__(self, settings: RouterSettings, features: FeatureSource | None = None) -> None:
        self.spec = DatasetSpec.load(settings.dataset)
        uncapped = [channel for channel in self.spec.channels if channel not in settings.cost_cap]
        if uncapped:
            raise SettingsError(f"cost_cap: no cost for {', '.join(uncapped)}")
        seconds = settings.deadline_ms / 1000
        self.decision_admission = Admission(settings.max_in_flight, seconds)
        # Outcomes wait for the disk and not for models: neither kind of request may take the place of the other.
        self.outcome_admission = Admission(settings.max_in_flight, _OUTCOME_SECONDS)
        self.drills = Drills() if settings.drills else None
        self.health = Health()
        self.live = LiveExperiment(settings.experiment, self.spec.channels)
        self._features = FeatureReader(features or FeastSource(settings.feature_repo, settings.feature_service))
        self.ledger = open_ledger(settings.ledger, patience=seconds)
        self.spool = Spool(settings.spool, max_bytes=settings.spool_max_bytes)
        sink = open_sink(settings, self.spool)
        self.shipper = Shipper(self.spool, sink, settings.keep_hours, self._open_reservations) if sink else None
        self._arms = Arms(self.spec.channels)
        self._pool = ThreadPoolExecutor(_LEDGER_THREADS, thread_name_prefix="ledger")
        self._settler = Settler(self.ledger, self._pool)
        self.pacer = Pacer(self.ledger, self.spec.channels)
        self.decider = Decider(
            spec=self.spec,
            live=self.live,
            cost_cap=settings.cost_cap,
            seconds=seconds,
            features=self._features,
            arms=self._arms,
            ledger=self.ledger,
            pool=self._pool,
            settler=self._settler,
            spool=self.spool,
            drills=self.drills or Drills(),
            pacer=self.pacer,
            health=self.health,
        )
        self.outcomes = OutcomeIntake(self.spool, self._settler, seconds, self.decider.cache.forget)
        self._reservation_ttl = settings.reservation_ttl_hours * 3600
        self._accounts_due = True  # the accounts of the experiment in force are still to be defined
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        if self.spool.torn:
            log.warning("the decision log held %d torn records; they were set aside", self.spool.torn)
        self.decider.cache.load(self.live.experiment.salt, self.spool.newest("decision", idempotency_cache.MOST))
        await self._arms.open()
        await self._set_ledger()
        await asyncio.gather(
            *(self._warm(arm.name, arm.url) for arm in self.live.experiment.arms), self._warm_features()
        )
        if self.shipper:
            self.shipper.start()
        work = (self._settler.run(), self._tick(), self._beat())
        self._tasks = [asyncio.create_task(some) for some in work]
        self.health.started = True
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.health.draining = True
        await self.decider.drain()
        for task in self._tasks:
            task.cancel()
        await self._settler.flush()
        if self.shipper:
            await self.shipper.close(_SHIP_SECONDS)  # before another process may hold the folder
            metrics.show_log(self.spool, self.shipper)
        await self._arms.close()
        await asyncio.to_thread(self.spool.close)
        self._features.close()
        self._pool.shutdown(wait=False)
        self.ledger.close()

    async def _set_ledger(self) -> None:
        """Define the accounts; the first time, also finish what a crash left. Only then may money be spent."""
        self._accounts_due = True
        try:
            limits = self.live.experiment.accounts()
            accounts = [Account(x.arm, x.campaign, x.channel, x.limit, x.period) for x in limits]
            await asyncio.to_thread(self.ledger.define, accounts)
            self._accounts_due = False
            self.health.report("ledger")
            if not self.decider.may_spend:
                finished = await asyncio.to_thread(reconcile, self.ledger, self.spool)
                if finished:
                    log.warning("finished %d reservations that a crash had left open", finished)
                self.decider.may_spend = True
        except (LedgerUnavailable, ValueError) as error:  # ValueError: a limit that this kind of ledger can't hold
            self.health.report("ledger", error)
            log.error("the accounts can't be set: %s", error)

    def _open_reservations(self) -> list[str] | None:
        """What retention must not lose; None before the log has been compared with the ledger."""
        try:
            return self.ledger.open_reservations() if self.decider.may_spend else None
        except LedgerUnavailable:
            return None

    async def _beat(self) -> None:
        """Apart from the housekeeping, which may wait for a store."""
        while True:
            self.health.tick()
            await asyncio.sleep(_TICK_SECONDS)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            metrics.ADMISSION_LIMIT.set(self.decision_admission.limit)
            metrics.IN_FLIGHT.set(self.decision_admission.inside)
            try:
                metrics.show_log(self.spool, self.shipper)
                if await asyncio.to_thread(self.live.refresh) or self._accounts_due or not self.decider.may_spend:
                    await self._set_ledger()
                if self.decider.may_spend:  # before, a cost may lie in the log that is still to be settled
                    metrics.BUDGET_EXPIRED.inc(await asyncio.to_thread(self.ledger.expire, self._reservation_ttl))
                balances = await asyncio.to_thread(self.ledger.balances)
                await asyncio.to_thread(self.pacer.refresh, self.live.experiment, balances)
                metrics.show_budget(balances)
                metrics.show_prices(self.pacer.by_arm())
                if not self._accounts_due:
                    self.health.report("ledger")
            except LedgerUnavailable as error:
                self.health.report("ledger", error)
                log.error("%s", error)
            except Exception:
                log.exception("housekeeping failed")

    async def _warm(self, arm: str, url: str) -> None:
        """One call, so that the first decision finds an open connection. An arm may also come later."""
        try:
            async with asyncio.timeout(_WARM_SECONDS):
                await self._arms.ask(url, [{"window": self._empty_window(), "u": 0.5}])
            self.health.report(arm)
        except Exception as error:
            self.health.report(arm, error)
            log.warning("%s does not answer yet: %s: %s", arm, type(error).__name__, error)

    async def _warm_features(self) -> None:
        try:
            async with asyncio.timeout(_WARM_SECONDS):
                await self._features.read([DecisionRequest("warm-up", "warm-up", {}, at=0)])
            self.health.report("features")
        except Exception as error:
            self.health.report("features", error)
            log.warning("the feature store does not answer yet: %s: %s", type(error).__name__, error)

    def _empty_window(self) -> dict[str, Any]:
        context = {column.name: 0.0 if column.kind == "numeric" else "warm-up" for column in self.spec.context}
        return instance_from_history({}, context, {}, self.spec, at=0)
