"""Records the origin of a published model in the file lineage.json: data, code, metrics and the gate's report.

The file is not part of the artifact, because a comparison with another model must not change the artifact's hash.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, ValidationError

from mtorl.runtime.validation import FromList, StrictModel, Text, all_faults

FILE = "lineage.json"
SCHEMA_VERSION = 1
Time = Annotated[
    AwareDatetime, BeforeValidator(lambda value: datetime.fromisoformat(value) if isinstance(value, str) else value)
]
"""A time with a time zone. In the file, it is ISO 8601 text."""


class LineageError(ValueError):
    """The file lineage.json can't be read or is invalid. The message names the file."""


class Figure(StrictModel):
    """A number with its 95 % interval."""

    value: float
    """The estimate."""
    low: float | None = None
    """Lower end of the interval; null: no interval."""
    high: float | None = None
    """Upper end of the interval; null: no interval."""


class Data(StrictModel):
    """The data from which the model was trained and evaluated."""

    name: Text
    """Name of the data set in its description."""
    log: Text
    """Fingerprint of the touchpoint log that the training read, including our own decisions that were added to the log.
    """
    source: Text | None = None
    """Digest of the raw log and its description, computed by the pipeline's first step."""
    collected: Text | None = None
    """Snapshot of our own decisions that were added to the log; null: none were added, or it is unknown."""
    rows: Annotated[int, Field(ge=0)] | None = None
    """Number of rows of test users from which the metrics were computed."""
    users: Annotated[int, Field(ge=0)] | None = None
    """Number of test users."""


class Code(StrictModel):
    """The version of the code that trained the model."""

    package: Text | None = None
    """Version of the package mtorl-kubeflow."""
    git_revision: Text | None = None
    """Git commit, if known."""


GateDecision = Literal["promote", "experiment", "reject"]
"""promote: the challenger may replace the incumbent. experiment: it may do so only after an experiment with users.
reject: it may not replace the incumbent."""


class GateReport(StrictModel):
    """The decision of the gate, and the rule that it applied. The gate compares a new model with the incumbent."""

    decision: GateDecision
    """promote: the model was published, and may replace the incumbent. experiment: it was published, and a person must
    start an experiment with it. A rejected model is not published; a first installation then serves the incumbent's
    model instead."""
    reason: Text
    """The reason, as text."""
    code: str = ""
    """The code of the reason, for programs."""
    values: dict[str, Any] = Field(default_factory=dict)
    """The values in the reason."""
    min_lift: float
    """For promotion, the lower end of the lift had to be above this gain per opportunity."""
    margin: float | None
    """Alternative rule for promotion, if the incumbent is our own last model: a positive lift was enough if its lower
    end was above minus this share of that model's value. null: the incumbent was external, so the rule did not apply.
    """
    lift: Figure | None
    """Gain per opportunity of the challenger minus that of the incumbent, at an equal budget, estimated off-policy on
    test users. null: the log does not allow an estimate for one of the two."""
    valued_on: Text
    """The kind of rows from which the lift was estimated: opportunities, incumbent_decisions or touchpoints."""


class Parent(StrictModel):
    """A model that this model was compared with."""

    relation: Literal["compared with"] = "compared with"
    """compared with: the gate compared the new model with this model."""
    digest: Text | None = None
    """Digest of the model's artifact; null: the model has no artifact."""
    policy: Text | None = None
    """Name of the policy in the decision log, if the model has no artifact."""


class PipelineRun(StrictModel):
    """The pipeline run that created the model."""

    pipeline: Text | None = None
    """Name of the pipeline."""
    name: Text | None = None
    """Name of the run."""
    id: Text | None = None
    """Id of the run."""


class Lineage(StrictModel):
    """The origin of a published model version, stored as lineage.json next to the model."""

    schema_version: Literal[1] = 1
    """Schema version of this file."""
    digest: Text
    """Digest of the artifact."""
    name: Text
    """Name of the artifact: challenger or incumbent."""
    published: Time
    """Time of publication."""
    data: Data
    """Data from which the model was trained."""
    code: Code = Code()
    """Version of the code that trained the model."""
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Settings of the training, by name."""
    metrics: dict[str, Figure] = Field(default_factory=dict)
    """Metrics on test users: `value` is the gain per opportunity at the gate's budget; the others measure the
    predictions of channel, reward and cost."""
    gate: GateReport | None = None
    """Report of the gate; null: no gate has judged the model."""
    parents: Annotated[tuple[Parent, ...], FromList] = ()
    """The models with which the gate compared this model."""
    run: PipelineRun = PipelineRun()
    """Pipeline run that created the model."""

    @classmethod
    def read(cls, version: Path) -> Lineage:
        """Read the lineage in the folder of a published version.

        Raises:
            LineageError: The file can't be read or is invalid.
        """
        path = version / FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise LineageError(f"{path}: {all_faults(error)}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise LineageError(f"{path}: cannot be read: {error}") from None

    def write(self, version: Path) -> None:
        """Write lineage.json into the folder of a version, before the version is published."""
        (version / FILE).write_text(json.dumps(self.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
