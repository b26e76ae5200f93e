"""Collects the reasons why versions of the registry are still needed, so that pruning does not remove them.

    needs = Needs()
    needs.add("challenger/0a1b2c3d4e5f", "mtorl-challenger serves it", serves=True)
    needs.reasons(version)          # empty: the version is not needed

The parent of a serving model is needed too, because a rollback would serve it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mtorl.experiment.budget_table import UNREAD
from mtorl.experiment.experiment import Experiment
from serving.versions.catalogue import Version


class Needs:
    """The reasons why versions are needed.

    Args:
        uses: A tuple for each use: the version's name, the reason, and whether a server serves the version.
        experiments: Experiments whose models are needed, even if switched off.
    """

    def __init__(self, uses: Iterable[tuple[str, str, bool]] = (), experiments: Iterable[Experiment] = ()) -> None:
        self._reasons: dict[str, dict[str, bool]] = {}  # version -> reason -> whether a server serves the version
        for name, reason, serves in uses:
            self.add(name, reason, serves)
        for experiment in experiments:
            for arm in experiment.arms:
                self.add(arm.model_digest or "", f"the experiment {experiment.name} names it ({arm.name})")

    def add(self, name: str, reason: str, serves: bool = False) -> None:
        """Add a reason for the version ARM/NAME, or for all digests that begin with `name`."""
        if name:
            known = self._reasons.setdefault(name, {})
            known[reason] = serves or known.get(reason, False)

    def serves(self, version: Version) -> bool:
        """Whether a server serves this version."""
        return any(self._of(version).values())

    def reasons(self, version: Version) -> list[str]:
        """Return the reasons why a version is needed, if any."""
        first = ["it belongs to the installation: mtorl-bootstrap would publish it again"] if version.is_first else []
        return [*self._of(version), *first]

    def with_rollbacks(self, known: Sequence[Version]) -> Needs:
        """Return a copy in which the parents of serving versions are needed for rollbacks."""
        needs = Needs((name, reason, on) for name, reasons in self._reasons.items() for reason, on in reasons.items())
        for version in known:
            if version.lineage is not None and self.serves(version):
                for parent in version.lineage.parents:
                    needs.add(parent.digest or "", f"{version.ref} serves and was {parent.relation} it")
        return needs

    def _of(self, version: Version) -> dict[str, bool]:
        found: dict[str, bool] = {}
        for name, reasons in self._reasons.items():
            if version.ref == name if "/" in name else version.digest.startswith(name):
                found |= reasons
        return found


def experiments_in(place: Path) -> list[Experiment]:
    """Load the experiments in a file or a folder. Raises ExperimentError."""
    files = sorted(place.glob("[!.]*.yaml")) if place.is_dir() else [place] if place.is_file() else []
    return [Experiment.load(file, UNREAD) for file in files]
