"""The lineage of a challenger that is to be published, from what the steps before have left.

    origin = Origin(challenger, incumbent, evaluation, min_lift=0.0, source=content, settings={"epochs": 12})
    publish(challenger, archive, registry, "challenger", origin.lineage())

A first installation publishes the incumbent, too, which no gate has judged.
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
    """Where a challenger comes from.

    Attributes:
        challenger: Its artifact's folder.
        incumbent: Folder of the artifact that it was compared with, or of what stands for an incumbent without one.
        evaluation: JSON of `evaluate_offline`.
        min_lift: What the gate was asked for.
        source: Digest of the raw log; empty: not known.
        collected: Digest of the decisions that were added to it; empty: none, or not known.
        settings: Of the training.
        pipeline: Name of the pipeline that made it; empty: not known, as of the next two.
        run_name: Name of its run.
        run_id: Its id.
    """

    challenger: str | Path
    incumbent: str | Path
    evaluation: str | Path
    min_lift: float
    source: str = ""
    collected: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    pipeline: str = ""
    run_name: str = ""
    run_id: str = ""

    def lineage(self, now: datetime | None = None) -> Lineage:
        """The challenger's lineage.

        Args:
            now: The present, if not the clock's.

        Raises:
            ArtifactError: There is no artifact, or it is damaged.
        """
        from mtorl.evaluation.gate import gate

        artifact = load(self.challenger)
        evaluation = self._evaluation()
        return lineage_of(
            artifact.model,
            artifact.spec.name,
            now or datetime.now(UTC).replace(microsecond=0),
            evaluation=evaluation,
            gate=gate_report(evaluation, *gate(evaluation["value"], self.min_lift), self.min_lift),
            compared_with=self._compared_with(),
            source=self.source,
            collected=self.collected,
            package=__version__,
            settings=self._settings(),
            run=self._run(),
        )

    def lineage_of_incumbent(self, now: datetime | None = None) -> Lineage:
        """That of the incumbent, of a first installation: no gate has judged it, and nothing came before it.

        Raises:
            ArtifactError: It has no artifact, or it is damaged.
        """
        artifact = load(self.incumbent)
        return lineage_of(
            artifact.model,
            artifact.spec.name,
            now or datetime.now(UTC).replace(microsecond=0),
            evaluation=self._evaluation(),
            arm="incumbent",
            source=self.source,
            collected=self.collected,
            package=__version__,
            run=self._run(),
        )

    def _evaluation(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(Path(self.evaluation).read_text(encoding="utf-8"))
        return found

    def _compared_with(self) -> Parent:
        from mtorl.evaluation.logged_incumbent import LoggedIncumbent

        without_artifact = LoggedIncumbent.named_in(self.incumbent)
        if without_artifact is not None:
            return Parent(relation=COMPARED, policy=without_artifact.policy)
        return Parent(relation=COMPARED, digest=load(self.incumbent).digest)

    def _run(self) -> PipelineRun:
        return PipelineRun(pipeline=self.pipeline or None, name=self.run_name or None, id=self.run_id or None)

    def _settings(self) -> dict[str, str | int | float | bool]:
        return {**{name: value for name, value in self.settings.items() if value != ""}, "min_lift": self.min_lift}
