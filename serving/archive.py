"""Packs an artifact and the request handler into the .mar file that TorchServe loads."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing

_HANDLER = '''"""The handler of the release that serves this archive."""

from serving.handlers.policy_handler import PolicyHandler


class Handler(PolicyHandler):
    """The one class that TorchServe finds in this file."""
'''
MODEL_CONFIG = Path(__file__).parent / "local" / "torchserve_files" / "model-config.yaml"
_ALONE = "batchSize: 1\n"
# 0 ms would mean TorchServe's default, 100 ms.
_GATHERED = "batchSize: 8\nmaxBatchDelay: 1\n"
_MANIFEST = "MAR-INF/MANIFEST.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # January 1, 1980: the earliest date in a zip file


class ArchiveError(InputError):
    """Raised if the artifact or archive is invalid, or if torch-model-archiver fails."""


def package(artifact_folder: str | Path, name: str, out_dir: str | Path, *, gather: bool = False) -> Path:
    """Write `<out_dir>/<name>.mar` with the handler and a copy of the artifact, atomically.

    Args:
        gather: Whether TorchServe waits up to 1 ms to combine up to eight requests.
    """
    source = Path(artifact_folder)
    try:
        model = json.loads((source / "model.json").read_text())
        version, created = str(model["version"]), str(model["created"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{source}: not a model artifact ({error!r})") from error
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    # torch-model-archiver deletes $TMPDIR/<model name> before it starts, so give it a new, empty TMPDIR. It packs the
    # content of the folder `extra`. To get a folder `artifact` in the archive, copy the artifact to `extra/artifact`.
    with tempfile.TemporaryDirectory(prefix="mtorl-mar-") as scratch:
        extra, store, config = Path(scratch, "extra"), Path(scratch, "store"), Path(scratch, MODEL_CONFIG.name)
        store.mkdir()
        config.write_text(MODEL_CONFIG.read_text() + (_GATHERED if gather else _ALONE))
        file = Path(scratch, "policy.py")
        file.write_text(_HANDLER)
        shutil.copytree(source, extra / "artifact")
        command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", version]
        command += ["--handler", str(file), "--config-file", str(config), "--extra-files", str(extra)]
        command += ["--archive-format", "zip-store", "--export-path", str(store)]
        done = subprocess.run(command, env={**os.environ, "TMPDIR": scratch}, capture_output=True, text=True)
        if done.returncode:
            raise ArchiveError(f"torch-model-archiver failed for {source}:\n{done.stderr.strip()}")
        target = out / f"{name}.mar"
        with replacing(target) as unfinished:
            _write_reproducibly(store / f"{name}.mar", unfinished, created)
    return target


def version_of(archive: Path) -> str:
    """Read the model's version from a .mar file; raises ArchiveError."""
    try:
        with zipfile.ZipFile(archive) as content:
            return str(json.loads(content.read(_MANIFEST))["model"]["modelVersion"])
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{archive}: not a model's archive ({error!r})") from error


def _write_reproducibly(archive: Path, target: Path, created: str) -> None:
    """Copy a .mar file so that equal content gives equal bytes."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in sorted(old.namelist()):
            content = old.read(name)
            if name == _MANIFEST:
                content = json.dumps(json.loads(content) | {"createdOn": created}, indent=2).encode()
            member = zipfile.ZipInfo(name, _EPOCH)
            member.external_attr = 0o644 << 16
            new.writestr(member, content)
