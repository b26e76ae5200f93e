"""Lists and finds the versions of a registry."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtorl.artifact.lineage import Lineage, LineageError
from serving import messages
from serving.registry import FIRST, RegistryError, published_digest, published_models


@dataclass(frozen=True)
class Version:
    """A published version of an arm's model."""

    folder: Path
    model: dict[str, Any]  # content of the artifact's model.json
    lineage: Lineage | None = None  # None if lineage.json can't be read
    problem: str = ""  # the reason if lineage.json can't be read

    @property
    def arm(self) -> str:
        """The arm for which the version was published."""
        return self.folder.parent.name

    @property
    def name(self) -> str:
        """The first characters of the digest, or `first`."""
        return self.folder.name

    @property
    def ref(self) -> str:
        """ARM/NAME, as in models.yaml and in an InferenceService."""
        return f"{self.arm}/{self.name}"

    @property
    def digest(self) -> str:
        """The artifact's digest."""
        return str(self.model["digest"])

    @property
    def version(self) -> str:
        """The artifact's own version, even if `name` is `first`."""
        return str(self.model.get("version") or self.digest[:12])

    @property
    def published(self) -> datetime | None:
        """The time of publication; None if the lineage can't be read."""
        return None if self.lineage is None else self.lineage.published

    @property
    def is_first(self) -> bool:
        """Whether the installation published the version."""
        return self.name == FIRST


def versions(registry: Path) -> list[Version]:
    """Return all complete versions by arm, the newest first."""
    earliest = datetime.min.replace(tzinfo=UTC)
    found = sorted(_complete(registry), key=lambda version: version.name)
    found.sort(key=lambda version: version.published or earliest, reverse=True)
    return sorted(found, key=lambda version: version.arm)


def find(registry: Path, name: str) -> Version:
    """Find the version to which `name` refers; raises RegistryError if there is none or more than one.

    Args:
        name: ARM/NAME, NAME alone, or the beginning of a digest.
    """
    known = versions(registry)
    arm, _, rest = name.rpartition("/")
    in_arm = [version for version in known if arm in ("", version.arm)]
    named = [version for version in in_arm if version.name == rest]
    named = named or [version for version in in_arm if rest and version.digest.startswith(rest)]
    if len(named) == 1:
        return named[0]
    if not named:
        there = ", ".join(version.ref for version in known) or "nothing"
        raise RegistryError(messages.NO_VERSION(registry=registry, name=name, known=there))
    if len({version.digest for version in named}) == 1 and not any(version.name == rest for version in named):
        return next((version for version in named if not version.is_first), named[0])  # one model may have two names
    raise RegistryError(messages.SEVERAL_VERSIONS(name=name, known=", ".join(version.ref for version in named)))


def _complete(registry: Path) -> Iterator[Version]:
    for artifact, model in published_models(registry):
        folder = artifact.parent
        if published_digest(folder) is None:
            continue
        try:
            yield Version(folder, model, Lineage.read(folder))
        except LineageError as error:
            yield Version(folder, model, problem=str(error))
