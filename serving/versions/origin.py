"""The lineage of a challenger that is to be published, from the results of the pipeline's steps.

origin = Origin(challenger, incumbent, evaluation, min_lift=0.0, source=content, settings={"epochs": 12})
publish(challenger, archive, registry, "challenger", origin.lineage())
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtorl import __version__
from mtorl.artifact.artifact import load
from mtorl.artifact.lineage import COMPARED, Lineage, Parent, PipelineRun, gate_report, lineage_of


@dataclass(frozen=True)
class Origin:
    """Where a challenger comes from. Empty text is unknown."""

    challenger: str | Path
    incumbent: str | Path  # artifact that it was compared with, or what stands for an incumbent without one
    evaluation: str | Path  # of `evaluate_offline`
    min_lift: float  # of the gate
    source: str = ""  # digest of the raw log
    collected: str = ""  # digest of the decisions that were added to it
    settings: Mapping[str, Any] = field(default_factory=dict)
    pipeline: str = ""
    run_name: str = ""
    run_id: str = ""

    def lineage(self, arm: str = "challenger") -> Lineage:
        """Lineage of the challenger or, for a first installation, of the incumbent, which no gate has judged.

        Raises:
            ArtifactError: There is no artifact, or it is damaged.
        """
        from mtorl.evaluation.gate import gate

        challenger = arm == "challenger"
        artifact = load(self.challenger if challenger else self.incumbent)
        evaluation = json.loads(Path(self.evaluation).read_text(encoding="utf-8"))
        settings = {**{name: value for name, value in self.settings.items() if value != ""}, "min_lift": self.min_lift}
        judged: dict[str, Any] = {}
        if challenger:
            report = gate_report(evaluation, *gate(evaluation["value"], self.min_lift), self.min_lift)
            judged = {"gate": report, "compared_with": self._compared_with(), "settings": settings}
        return lineage_of(
            artifact.model,
            artifact.spec.name,
            datetime.now(UTC).replace(microsecond=0),
            evaluation=evaluation,
            arm=arm,
            source=self.source,
            collected=self.collected,
            package=__version__,
            run=PipelineRun(pipeline=self.pipeline or None, name=self.run_name or None, id=self.run_id or None),
            **judged,
        )

    def _compared_with(self) -> Parent:
        from mtorl.evaluation.logged_incumbent import LoggedIncumbent

        without_artifact = LoggedIncumbent.named_in(self.incumbent)
        if without_artifact is not None:
            return Parent(relation=COMPARED, policy=without_artifact.policy)
        return Parent(relation=COMPARED, digest=load(self.incumbent).digest)
