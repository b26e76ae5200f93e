"""Origin of a published model: data, code, figures, the gate's report, and the models beside it.

    lineage = Lineage.read(Path("registry/challenger/0a1b2c3d4e5f"))
    lineage.write(unfinished)                                           # beside the artifact, before it is published

`lineage.json` lies beside the artifact and not in it: an artifact's version follows from what it holds, and which other
model it was compared with changes no decision of its own. What is null is not known.
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
"""With its zone; ISO text in the file."""


class LineageError(ValueError):
    """A lineage can't be read; the message names the file."""


class Figure(StrictModel):
    """A number with its 95 % interval."""

    value: float
    """The estimate."""
    low: float | None = None
    """Lower end of the interval; null: it has none."""
    high: float | None = None
    """Upper end."""


class Data(StrictModel):
    """Data of the training."""

    name: Text
    """Of the data set, as its description says."""
    log: Text
    """Fingerprint of the touchpoint log that training read, with the decisions that were added to it."""
    source: Text | None = None
    """Digest of the raw log and of its description, as the pipeline's first step found them."""
    collected: Text | None = None
    """Snapshot of the decisions that were added; null: none were, or it is not known."""
    rows: Annotated[int, Field(ge=0)] | None = None
    """Rows of test users that the figures rest on."""
    users: Annotated[int, Field(ge=0)] | None = None
    """Test users."""


class Code(StrictModel):
    """Version of the code of the training."""

    package: Text | None = None
    """Version of this package."""
    git_revision: Text | None = None
    """Commit, where the code knows it."""


GateDecision = Literal["promote", "experiment", "reject"]
"""promote: it may replace the incumbent. experiment: only after an experiment with users. reject: neither."""


class GateReport(StrictModel):
    """Decision of the gate, with the rule that it followed."""

    decision: GateDecision
    """promote, or experiment: published, but rolled out by a person, for an experiment. Of a rejected challenger there
    is no version; a first installation serves the incumbent's model in its place."""
    reason: Text
    """In words."""
    code: str = ""
    """Of the reason, for programs."""
    values: dict[str, Any] = Field(default_factory=dict)
    """In the reason."""
    min_lift: float
    """Gain per opportunity that the lower end of the lift had to exceed."""
    margin: float | None
    """Instead, a positive lift was enough if its lower end was above minus this share of the value of our own last
    model; null: the incumbent was external, and had to be beaten."""
    lift: Figure | None
    """Challenger minus incumbent: gain per opportunity at an equal budget, off-policy, on test users; null: the log
    says nothing of one of them."""
    valued_on: Text
    """Which rows it was valued on: opportunities, incumbent_decisions or touchpoints."""


class Parent(StrictModel):
    """A model that this one was measured against."""

    relation: Literal["compared with"] = "compared with"
    """compared with: what the gate compared it with."""
    digest: Text | None = None
    """Of its artifact; null: it has none."""
    policy: Text | None = None
    """What a policy without an artifact is called in the decision log."""


class PipelineRun(StrictModel):
    """The run that made it."""

    pipeline: Text | None = None
    """Name of the pipeline."""
    name: Text | None = None
    """Name of the run."""
    id: Text | None = None
    """Id of the run."""


class Lineage(StrictModel):
    """Origin of a published version, in addition to its artifact."""

    schema_version: Literal[1] = 1
    """Of this file."""
    digest: Text
    """Of the artifact."""
    name: Text
    """Of the artifact: challenger, incumbent."""
    published: Time
    """When it was published."""
    data: Data
    """What it was trained on."""
    code: Code = Code()
    """Code of the training."""
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Of its training."""
    metrics: dict[str, Figure] = Field(default_factory=dict)
    """`value`: gain per opportunity at the gate's budget; and the most telling figures of its heads, on test users."""
    gate: GateReport | None = None
    """Null: no gate has judged it."""
    parents: Annotated[tuple[Parent, ...], FromList] = ()
    """The models that it was compared with."""
    run: PipelineRun = PipelineRun()
    """Which run made it."""

    @classmethod
    def read(cls, version: Path) -> Lineage:
        """The lineage of a published version; raises LineageError."""
        path = version / FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise LineageError(f"{path}: {all_faults(error)}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise LineageError(f"{path}: cannot be read: {error}") from None

    def write(self, version: Path) -> None:
        """Write it into the folder of a version that is not published yet."""
        (version / FILE).write_text(json.dumps(self.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
