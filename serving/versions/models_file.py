"""Writes the versions that a cluster's model servers are to serve into an overlay's models.yaml."""

import re
from collections.abc import Mapping
from pathlib import Path

from mtorl.runtime.errors import InputError
from serving.messages import NO_VERSION_OF_ARM


def write_versions(file: Path, versions: Mapping[str, str]) -> None:
    """Replace the version of each arm; comments and everything else stay.

    Args:
        file: A models.yaml, or a kustomization with `literals`: a line `ARM: ARM/NAME`, or a literal `ARM=ARM/NAME`.
        versions: By arm.

    Raises:
        InputError: The file names no version of an arm.
    """
    text = file.read_text(encoding="utf-8")
    for arm, version in versions.items():
        text, found = re.subn(rf"(?<![\w/-])({re.escape(arm)}(?:: *|=))[\w.-]+/[\w.-]+", rf"\g<1>{version}", text)
        if not found:
            raise InputError(NO_VERSION_OF_ARM(file=file, arm=arm, version=version))
    file.write_text(text, encoding="utf-8")
