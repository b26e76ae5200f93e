"""Creates, starts and stops the parts of the router."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from mtorl.experiment.layers import Experiments
from mtorl.log.dataset import DatasetSpec
from mtorl.log.lake import Lake
from mtorl.runtime.clock_jumps import ClockJumps
from mtorl.runtime.message import Message
from serving.decision_log import Spool, segments
from serving.decision_log.http_sink import HttpSink
from serving.decision_log.lake_sink import LakeSink
from serving.decision_log.shipper import Shipper
from serving.ledger import open_ledger
from serving.ledger.contract import Balance, LedgerInUse, LedgerUnavailable
from serving.ledger.overrun import LimitWatch, budget_warnings
from serving.messages import LOG_NOT_WRITTEN
from serving.router import messages
from serving.router.flow import idempotency_cache
from serving.router.flow.admission import Admission
from serving.router.flow.arms import Arms, ArmWatch
from serving.router.flow.budgets import Budgets, OutcomeIntake
from serving.router.flow.decider import Decider
from serving.router.flow.features import FeastSource, FeatureReader, FeatureSource, RegistryAwaited
from serving.router.flow.requests import DecisionParser, DecisionRequest, OutcomeParser
from serving.router.flow.stages import Parts, Stages
from serving.router.ops import metrics, tracing
from serving.router.ops.drills import Drills
from serving.router.ops.health import Health
from serving.router.ops.live_experiments import ExperimentFiles, LiveExperiments, Source
from serving.router.ops.operator_feed import OperatorFeed
from serving.router.ops.settings import RouterSettings, SettingsError

log = logging.getLogger(__name__)

_OUTCOME_SECONDS = 1.0  # deadline of a request that reports outcomes
_TICK_SECONDS = 1.0  # seconds between two rounds of housekeeping
_POLLS = 10  # checks per second whether housekeeping must run sooner
_WARM_SECONDS = 5.0
_OUTCOMES_EACH = 4  # approximate number of outcomes per decision
_REST = 20.0  # pause for this multiple of the time that publishing accounts took
_SHIP_SECONDS = 3.0  # seconds at shutdown to ship records that wait
_KEPT_SECONDS = idempotency_cache.SECONDS  # a restarted router needs the records of this period
_SENT = "sent.json"  # file that stores the shipping positions of the sink


class Router:
    """The router without its HTTP server. `async with` starts and stops it.

    Raises:
        SettingsError: The settings or the feature repository are not valid.
        SpecError: The description of the data set is not valid.
        SpoolError: The decision log can't be opened.
        LedgerInUse: Another router uses the ledger, which can't be shared.
    """

    def __init__(self, settings: RouterSettings, features: FeatureSource | None = None) -> None:
        self.spec = DatasetSpec.load(settings.dataset)
        uncapped = [channel for channel in self.spec.channels if channel not in settings.cost_cap]
        if uncapped:
            raise SettingsError(f"cost_cap: no cost for {', '.join(uncapped)}")
        self.parser = DecisionParser(self.spec, settings.cost_cap)
        self.outcome_parser = OutcomeParser(self.spec)
        seconds = settings.deadline_ms / 1000
        self.decision_admission = Admission(settings.max_in_flight, seconds)
        # Outcomes wait for the disk, but decisions wait for models, so they have separate limits.
        self.outcome_admission = Admission(settings.max_in_flight, _OUTCOME_SECONDS)
        self.drills = Drills() if settings.drills else None
        self.health = Health()
        self.ledger = open_ledger(settings.ledger, patience=seconds)
        # A saved experiment may be old, and routers that share a ledger must all apply the same version.
        last_good, alone = settings.spool.with_name("last-good-experiments"), not self.ledger.shared
        files = ExperimentFiles(settings.experiment, settings.budget_tables)
        source: Source = files
        if settings.operator is not None:
            source = OperatorFeed(settings.operator, files, last_good, socket.gethostname())
        self.live = LiveExperiments(source, self.spec, self.health, last_good, alone)
        self._settings = settings
        self._source = features
        self._seconds = seconds
        self._arms = Arms(self.spec.channels, self.health)
        self._arm_watch = ArmWatch(self.live, self._arms, self.spec, self.health)
        self._accounts_kept_for: Experiments | None = None
        self._limits = LimitWatch()
        self._show_accounts_at = 0.0
        self._jumps = ClockJumps(time.monotonic)
        self._jumps.observe(time.time())
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        # Slow steps run in threads, so that the event loop can answer probes.
        self._tasks = [asyncio.create_task(self._every_second(self._show_life))]
        with contextlib.suppress(LedgerUnavailable):  # if the folder is missing, `set_accounts` locks it later
            await asyncio.to_thread(self.ledger.claim)
        while self.live.missing:
            self._wait_for(messages.NO_EXPERIMENT(faults=self.live.missing))
            await asyncio.sleep(_TICK_SECONDS)
            await self._follow_experiment()
        self._features = FeatureReader(self._source or await self._feature_source(), self.spec)
        self.health.waiting_for = messages.OPENING(folder=str(self._settings.spool))
        self.spool = await asyncio.to_thread(Spool, self._settings.spool, max_bytes=self._settings.spool_max_bytes)
        self._assemble()
        newest = self.spool.newest("decision", idempotency_cache.MOST)
        reported = self.spool.newest("outcome", _OUTCOMES_EACH * idempotency_cache.MOST)
        await asyncio.to_thread(self.decider.cache.load, newest, reported)
        await self._follow_experiment()  # the kill switch may have been set meanwhile
        await self._attempt(self._keep_accounts)  # the first decision needs prices
        await asyncio.gather(self._arm_watch.probe(), self._warm_up_features())
        for shipper in self.shippers.values():
            shipper.start()
        watches = (self._watch_disk, self._watch_ledger, self._arm_watch.probe)
        rounds = (self._follow_experiment, self._expire_reservations, self._show, self._prune_log, *watches)
        accounts = self._every_second(self._keep_accounts, sooner=self._accounts_due)
        background = (self.budgets.settler.run(), accounts)
        self._tasks += [asyncio.create_task(work) for work in (*background, *map(self._every_second, rounds))]
        if self._settings.tracing is not None:
            await asyncio.to_thread(tracing.start, self._settings.tracing)
        self.health.waiting_for = None
        metrics.READY.set(1)
        return self

    async def _feature_source(self) -> FeatureSource:
        """Open the feature repository, and wait while it has no registry."""
        settings = self._settings
        self.health.waiting_for = messages.OPENING(folder=str(settings.feature_repo))
        while True:
            try:
                return await asyncio.to_thread(FeastSource, settings.feature_repo, settings.feature_service, self.spec)
            except RegistryAwaited as absent:
                self._wait_for(absent.args[0])
                await asyncio.sleep(_TICK_SECONDS)

    def _wait_for(self, what: Message) -> None:
        if what != self.health.waiting_for:
            self.health.waiting_for = what
            log.warning("the router waits: %s", what)

    def _assemble(self) -> None:
        settings = self._settings
        self.budgets = Budgets(self.ledger, {channel: settings.cost_cap[channel] for channel in self.spec.channels})
        lake = LakeSink(Lake.open(settings.lake), self.spool.identity, settings.upload_seconds)
        self.shippers = {"lake": (uploader := Shipper(self.spool, lake, segments.UPLOADED))}
        if (sink := open_sink(settings)) is not None:
            self.shippers["sink"] = Shipper(self.spool, sink, _SENT, uploader)
        parts = Parts(self.health, self.drills or Drills())
        stages = Stages(self._features, self._arms, self.budgets, self.spool, parts, settings.window_share)
        self.decider = Decider(self.live, stages, self.budgets, self.spool, self._seconds)
        forget = self.decider.cache.forget
        self.outcomes = OutcomeIntake(self.outcome_parser, self.spool, self.budgets, self._seconds, forget)

    async def __aexit__(self, *exc_info: object) -> None:
        self.health.draining = True
        await self.decider.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self.budgets.settler.flush(), self._close_log())  # in parallel, because one store may hang
        self._arms.close()
        with contextlib.suppress(LedgerUnavailable):
            await asyncio.to_thread(self.budgets.pacer.release)
        await tracing.stop()
        self.ledger.close()
        if left := self.undone():
            log.warning("left for the next start: %s", "; ".join(left))

    async def _close_log(self) -> None:
        # Once the spool is closed, another process may open its folder.
        await asyncio.gather(*(shipper.close(_SHIP_SECONDS) for shipper in self.shippers.values()))
        metrics.show_log(self.spool, self.shippers)
        await asyncio.to_thread(self.spool.close)

    def undone(self) -> list[str]:
        """Describe the work that a hanging store leaves unfinished at shutdown."""
        found = []
        if decisions := self.decider.at_work:
            found.append(f"decisions in progress: {decisions}")
        if reservations := self.budgets.settler.pending:
            found.append(f"reservations that the next start settles or releases: {reservations}")
        if self.spool.alive:
            found.append("the decision log is not closed, but everything acknowledged is on disk")
        return found

    async def _show_life(self) -> None:
        self.health.tick()

    async def _every_second(
        self, work: Callable[[], Awaitable[None]], sooner: Callable[[], bool] = lambda: False
    ) -> None:
        """Call `work` once a second, and at once if `sooner()` is true.

        Each kind of work has its own task, so that a slow ledger does not delay the kill switch.
        """
        done = True
        while True:
            for _ in range(_POLLS):
                await asyncio.sleep(_TICK_SECONDS / _POLLS)
                if done and sooner():
                    break
            done = await self._attempt(work)

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> bool:
        try:
            await work()
            return True
        except LedgerUnavailable as error:
            self.health.report("ledger", error)
            log.error("%s", error)
        except Exception as error:
            log.exception("housekeeping failed", extra={"cause": type(error).__name__})
        return False

    async def _follow_experiment(self) -> None:
        await asyncio.to_thread(self.live.refresh)

    def _accounts_due(self) -> bool:
        return self.budgets.pacer.due() or self._accounts_kept_for is not self.live.experiments

    async def _keep_accounts(self) -> None:
        experiments = self._accounts_kept_for = self.live.experiments
        if not self.budgets.set_up_for(experiments):
            try:
                await asyncio.to_thread(self.budgets.set_accounts, experiments, self.spool)
            except (LedgerUnavailable, LedgerInUse, ValueError) as error:  # ValueError: a limit is too high
                self.health.report("ledger", error)
                log.error("the accounts can't be set: %s", error)
        balances = await asyncio.to_thread(self.budgets.pacer.refresh, experiments)
        if time.monotonic() >= self._show_accounts_at:
            began = time.monotonic()
            await asyncio.to_thread(self._show_accounts, experiments, balances)
            took = time.monotonic() - began
            self._show_accounts_at = time.monotonic() + _REST * took
        if self.budgets.set_up_for(experiments):
            self.health.report("ledger")
            self.health.experiments = {one.name: one.version for one in experiments}

    def _show_accounts(self, experiments: Experiments, balances: Sequence[Balance] | None) -> None:
        """Publish all balances as metrics. If `balances` is None, another router does."""
        pacer = self.budgets.pacer
        if balances is None:
            self._limits = LimitWatch()
        metrics.PACING_LEADER.set(balances is not None)
        metrics.show_prices(pacer.by_arm())
        metrics.show_budget(balances or ())
        metrics.show_overruns(self._limits.overruns(balances or ()))
        metrics.show_pace(pacer.pace())
        found = [*budget_warnings(balances or (), time.time(), self.budgets.cost_cap), *pacer.faults]
        found += [messages.BUDGETS_DIFFER(difference=difference) for difference in experiments.differences]
        if found and "; ".join(found) != self.health.parts.get("budgets"):
            log.warning("budgets: %s", "; ".join(found))
        self.health.note("budgets", *found)

    async def _expire_reservations(self) -> None:
        while expired := await asyncio.to_thread(self.budgets.expire, self._settings.reservation_ttl_hours * 3600):
            metrics.BUDGET_EXPIRED.inc(expired)

    async def _show(self) -> None:
        metrics.ADMISSION_LIMIT.set(self.decision_admission.limit)
        metrics.IN_FLIGHT.set(self.decision_admission.inside)
        metrics.show_log(self.spool, self.shippers)

    async def _prune_log(self) -> None:
        # After a jump of the clock, records that a retry needs must not look old.
        before = self._jumps.before(time.time(), _KEPT_SECONDS)
        await asyncio.to_thread(self.spool.prune, [shipper.noted for shipper in self.shippers.values()], before)

    async def _watch_disk(self) -> None:
        """Publish the free disk space, in its own task because the disk may hang."""
        try:
            room = await asyncio.to_thread(self.spool.room)
        except OSError as error:
            self.health.note("decision_log", LOG_NOT_WRITTEN(error=str(error)))
            return
        metrics.show_room(self.spool, room)
        self.health.note("decision_log", *self.spool.problems(room))

    async def _watch_ledger(self) -> None:
        room, beside = None, False
        with contextlib.suppress(LedgerUnavailable, OSError):
            room = await asyncio.to_thread(self.ledger.room)
            beside = room is not None and room.device == (await asyncio.to_thread(self.spool.folder.stat)).st_dev
        metrics.show_ledger_room(room, beside)

    async def _warm_up_features(self) -> None:
        try:
            async with asyncio.timeout(_WARM_SECONDS):
                await asyncio.to_thread(self._features.read, [DecisionRequest("warm-up", "warm-up", {}, at=0)])
            self.health.report("features")
        except Exception as error:
            self.health.report("features", error)
            log.warning("the feature store does not answer yet: %s: %s", type(error).__name__, error)


def open_sink(settings: RouterSettings) -> HttpSink | None:
    """Return the HTTP sink for the decision log, if any. K_SINK overrides the setting `sink`."""
    source = f"/mtorl/router/{settings.model_name}"
    if url := os.environ.get("K_SINK"):
        return HttpSink(url, source, largest=1)  # Knative's brokers accept only single events
    return None if settings.sink is None else HttpSink(settings.sink, source)
