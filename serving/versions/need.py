"""Uses of a version, in words: what is used is never removed.

    needs = Needs()
    needs.add("challenger/0a1b2c3d4e5f", "mtorl-challenger serves it", serves=True)
    needs.add("0a1b2c", "the experiment spring names it")         # the beginning of a digest
    needs.reasons(version)          # empty: no known use

A rollback goes back to the model that the serving one was compared with, so that is needed, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mtorl.experiment.budget_table import UNREAD
from mtorl.experiment.experiment import Experiment
from serving.versions.catalogue import Version


class Needs:
    """The uses of versions.

    Args:
        uses: Each with the name of a version, the reason, and whether it serves, as `add` takes them.
        experiments: The models that they name are needed, also while a kill switch is on.
    """

    def __init__(self, uses: Iterable[tuple[str, str, bool]] = (), experiments: Iterable[Experiment] = ()) -> None:
        self._reasons: dict[str, dict[str, bool]] = {}  # by name: each reason, and whether it is that it serves
        for name, reason, serves in uses:
            self.add(name, reason, serves)
        for experiment in experiments:
            for arm in experiment.arms:
                self.add(arm.model_digest or "", f"the experiment {experiment.name} names it ({arm.name})")

    def add(self, name: str, reason: str, serves: bool = False) -> None:
        """Note that a version is needed: ARM/NAME, or all versions of a model by the beginning of its digest."""
        if name:
            known = self._reasons.setdefault(name, {})
            known[reason] = serves or known.get(reason, False)

    def serves(self, version: Version) -> bool:
        """Whether a version is known to serve."""
        return any(self._of(version).values())

    def reasons(self, version: Version) -> list[str]:
        """The known uses of a version."""
        first = ["it is of the first installation: mtorl-bootstrap would make it anew"] if version.is_first else []
        return [*self._of(version), *first]

    def with_rollbacks(self, known: Sequence[Version]) -> Needs:
        """These, and the versions among `known` that a rollback of the serving ones would need."""
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
    """The experiments of a file, or of a folder with a file each; ExperimentError: those of a file are unknown."""
    files = sorted(place.glob("[!.]*.yaml")) if place.is_dir() else [place] if place.is_file() else []
    return [Experiment.load(file, UNREAD) for file in files]
