"""Builds the lineage of a challenger from the results of the pipeline's steps."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtorl import __version__
from mtorl.artifact.artifact import load
from mtorl.artifact.lineage import Code, Data, Figure, GateReport, Lineage, Parent, PipelineRun

_METRICS = ("reward_auc", "reward_logloss", "reward_ece", "action_auc")


@dataclass(frozen=True)
class Origin:
    """The pipeline run that trained a challenger. Unknown texts are empty."""

    challenger: str | Path  # the challenger's artifact
    incumbent: str | Path  # the compared model's artifact, or a `LoggedIncumbent`
    evaluation: str | Path  # result of `evaluate_offline`
    gate: str | Path  # the gate's report
    source: str = ""  # digest of the raw log
    collected: str = ""  # snapshot of the decisions that were added to the log
    settings: Mapping[str, Any] = field(default_factory=dict)
    pipeline: str = ""
    run_name: str = ""
    run_id: str = ""

    def lineage(self, arm: str = "challenger") -> Lineage:
        """Build the lineage of the challenger, or of the incumbent without the gate's report; raises ArtifactError."""
        artifact = load(self.challenger if arm == "challenger" else self.incumbent)
        model, evaluation = artifact.model, json.loads(Path(self.evaluation).read_text(encoding="utf-8"))
        revision = model.get("git_revision")
        known = Lineage(
            digest=model["digest"],
            name=model["name"],
            published=datetime.now(UTC).replace(microsecond=0),
            data=Data(
                name=artifact.spec.name,
                log=model["data_fingerprint"],
                source=self.source or None,
                collected=self.collected or None,
                rows=evaluation.get("test_rows"),
                users=evaluation.get("test_users"),
            ),
            code=Code(package=__version__, git_revision=None if revision in ("", "unknown") else revision),
            metrics=figures_of(evaluation, arm),
            run=PipelineRun(pipeline=self.pipeline or None, name=self.run_name or None, id=self.run_id or None),
        )
        if arm != "challenger":
            return known
        report = GateReport.model_validate_json(Path(self.gate).read_text(encoding="utf-8"))
        settings = {name: value for name, value in self.settings.items() if value != ""}
        return known.replace(gate=report, parents=(self._compared_with(),), settings=settings)

    def _compared_with(self) -> Parent:
        from mtorl.evaluation.logged_incumbent import LoggedIncumbent

        without_artifact = LoggedIncumbent.named_in(self.incumbent)
        if without_artifact is not None:
            return Parent(policy=without_artifact.policy)
        return Parent(digest=load(self.incumbent).digest)


def figures_of(evaluation: Mapping[str, Any], arm: str) -> dict[str, Figure]:
    """Return an arm's estimated value and main model metrics."""
    found = {name: _figure(evaluation[arm], name) for name in _METRICS if isinstance(evaluation[arm].get(name), float)}
    return {"value": _figure(evaluation["value"], arm), **found}


def _figure(figures: Mapping[str, Any], name: str) -> Figure:
    low, high = figures.get(f"{name}_ci") or (None, None)
    return Figure(value=figures[name], low=low, high=high)
