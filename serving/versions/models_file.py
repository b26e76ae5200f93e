"""Writes the versions to serve into an overlay's models.yaml."""

import re
from collections.abc import Mapping
from pathlib import Path

from mtorl.runtime.errors import InputError
from serving.messages import NO_VERSION_OF_ARM


def write_versions(file: Path, versions: Mapping[str, str]) -> None:
    """Replace the version of each arm in a file. The rest of the file does not change.

    Args:
        file: A models.yaml with lines `ARM: ARM/NAME`, or a kustomization with `literals` such as `ARM=ARM/NAME`.
        versions: Versions as ARM/NAME, by arm.

    Raises:
        InputError: The file lacks a version of one of the arms.
    """
    text = file.read_text(encoding="utf-8")
    for arm, version in versions.items():
        text, found = re.subn(rf"(?<![\w/-])({re.escape(arm)}(?:: *|=))[\w.-]+/[\w.-]+", rf"\g<1>{version}", text)
        if not found:
            raise InputError(NO_VERSION_OF_ARM(file=file, arm=arm, version=version))
    file.write_text(text, encoding="utf-8")
