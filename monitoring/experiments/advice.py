"""Recommends the next action to the owner of an experiment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from monitoring import messages
from monitoring.experiments.document import Action, Advice, Condition, Tone
from monitoring.experiments.findings import Findings
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import Event
from mtorl.experiment.messages import KILL_SWITCH_ON, OFF_IN_FILE
from mtorl.experiment.stage_machine import FAULTS, OVER, STAGES, Evidence, Hold, Move, Requirement, State, lacking
from mtorl.experiment.stages import RampStage
from mtorl.runtime.message import joined

_HEADLINES = {"fallback_ratio": "falls back too often", "latency_seconds": "is too slow"}


@dataclass(frozen=True)
class Standing:
    """The facts from which the advice is derived.

    Attributes:
        step: The next move of the stage machine, or the reasons why it waits.
        requirements: Conditions for leaving the present stage.
        ahead: Stages of the ramp that are still to come.
        last_kill: Reason that a person gave for the last use of the kill switch.
        short: Warning that a budget will not last; None if all budgets last.
    """

    experiment: Experiment
    state: State
    step: Move | Hold
    findings: Findings
    requirements: Sequence[Requirement]
    last: Event | None
    ahead: Sequence[RampStage]
    last_kill: str | None
    short: str | None

    def advice(self) -> Advice:
        """Return the most urgent advice that applies."""
        return next(self._in_order())

    def _say(
        self, action: Action, headline: str, reason: str, tone: Tone, condition: Condition = "fine", command: str = ""
    ) -> Advice:
        return Advice(
            action=action,
            condition=condition,
            headline=headline,
            reason=reason,
            code=getattr(reason, "code", ""),
            values=getattr(reason, "values", {}),
            tone=tone,
            command=self.findings.commands.get(command),
        )

    def _in_order(self) -> Iterator[Advice]:
        phase, problem, settled = self.state.phase, self.findings.problem, self.findings.settled
        if problem is not None:
            yield self._say("mend", "Correct the error: until then, no change applies", problem, "alarm", "held")
        if settled is not None and settled["reason"] == "Changed" and not settled["done"] and phase != "rolled back":
            headline = "Check the incumbent's server: it does not serve the promoted model"
            yield self._say("look", headline, settled["words"], "alarm", "held")
        if phase in OVER:
            yield self._over()
        off = "The kill switch is on: all users get the incumbent"
        if self.state.killed:
            reason = self.last_kill or KILL_SWITCH_ON()
            yield self._say("resume or stop", off, reason, "alarm", "harm", "resume")
        if not self.experiment.enabled:
            yield self._say("resume or stop", off, OFF_IN_FILE(), "alarm", "harm")
        if phase == "draft" and not self.findings.by_hand:
            yield self._draft()
        if self.experiment.ramp is None:
            yield self._by_hand()
        yield from self._running()

    def _over(self) -> Advice:
        last, phase = self.last, self.state.phase
        reason = last.reason if last is not None else ""
        if phase == "promoted":
            who = last.challenger if last is not None else None
            headline = f"Nothing to do: {who or 'the challenger'} now decides for all users"
            return self._say("nothing", headline, reason, "good", command="rollback")
        if phase == "stopped":
            return self._say("try again", "Keep the incumbent: the experiment was stopped", reason, "open")
        by_ramp = last is not None and last.by == "ramp"
        headline = "Rolled back: all users get the incumbent"
        if by_ramp:
            headline = "Keep the incumbent: the experiment was rolled back"
        return self._say("try again", headline, reason, "alarm", "harm")

    def _draft(self) -> Advice:
        if isinstance(self.step, Move):
            return self._say("run", "The experiment starts now", self.step.reason, "open", command="run")
        if self.experiment.start is not None and self.experiment.ramp is not None:
            return self._say("wait", "Nothing to do: it starts at its time", self.step.reasons[0], "open")
        headline = "Start the experiment when you are ready"
        return self._say("start", headline, messages.WAITS_FOR_START(), "open", command="start")

    def _by_hand(self) -> Advice:
        """Without a ramp, a person chooses the stages, so only the verdict leads to advice."""
        evidence = self.findings.evidence
        if evidence is None:
            return self._say("wait", "Wait: there are no figures yet", messages.NOTHING_LOGGED(), "open")
        if evidence.token == "srm":
            return self._srm(evidence)
        if evidence.breached:
            headline = "Go back to the incumbent: a guardrail is breached"
            return self._say("find out", headline, joined(evidence.breached), "alarm", "held")
        if evidence.token in ("stop", "futile"):
            return self._say("find out", "Keep the incumbent", evidence.reason, "alarm")
        if evidence.token == "ship":
            return self._say("promote", f"Ship {evidence.challenger}", evidence.reason, "good")
        return self._say("wait", "Let it run: nothing is decided yet", evidence.reason, "open")

    def _srm(self, evidence: Evidence) -> Advice:
        headline = "Find out why users are not split as configured"
        return self._say("find out", headline, evidence.reason, "alarm", "held", "stop")

    def _running(self) -> Iterator[Advice]:
        evidence, step, newest = self.findings.evidence, self.step, self.findings.newest
        wins = evidence is not None and evidence.token == "ship"
        waits_for_promotion = wins and not self.ahead and all(one.met for one in self.requirements)
        if evidence is not None and evidence.token == "srm":
            yield self._srm(evidence)
        if isinstance(step, Move) and (self.short is None or step.to not in STAGES):
            yield self._moves(step)
        if faults := [one for one in self.requirements if not one.met and one.kind in FAULTS]:
            headline = f"Check {faults[0].arm}: it {_HEADLINES[faults[0].kind]}"
            yield self._say("look", headline, joined(lacking(faults)), "alarm", "held")
        if self.short is not None and not waits_for_promotion:
            headline = "Check the budget: it may not last for the remaining stages"
            yield self._say("look", headline, self.short, "alarm")
        if self.ahead and not self.requirements and isinstance(step, Hold):
            yield self._say("move on", "Move it to its next stage", step.reasons[0], "alarm", "held", "ramp")
        if evidence is not None and waits_for_promotion:
            headline = f"Promote {evidence.challenger}"
            yield self._say("promote", headline, evidence.reason, "good", command="promote")
        if self.findings.router_runs is False:
            headline = "Start the router: it makes no decisions now"
            yield self._say("run", headline, messages.NO_ROUTER_HERE(), "alarm", "held", "serve")
        if newest is not None and newest["silence"] is not None:
            reason = messages.NOT_ASKED(silence=newest["silence"])
            yield self._say("look", "Find out why decisions have stopped", reason, "alarm")
        if evidence is not None and wins:
            yield self._say("wait", f"Let it run: {evidence.challenger} is ahead", evidence.reason, "good")
        if self.state.phase == "shadow":
            yield self._say("wait", "Let it run in the shadow", messages.IN_SHADOW(), "open")
        reason = messages.NOTHING_LOGGED() if evidence is None else evidence.reason
        yield self._say("wait", "Let it run: nothing is decided yet", reason, "open")

    def _moves(self, step: Move) -> Advice:
        if step.to == "rolled back":
            headline = "Roll back: a guardrail is breached"
            return self._say("run", headline, step.reason, "alarm", "held", "run")
        headline = {
            "stopped": "Stop the experiment: no challenger has won",
            "promoted": f"{step.challenger} is about to be promoted",
        }.get(step.to, f"Ready for {step.to}")
        return self._say("run", headline, step.reason, "open" if step.to == "stopped" else "good", command="run")
