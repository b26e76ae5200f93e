"""Lets DuckDB read files of a pyarrow file system, such as an object store, as `lake://NAME`."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from typing_extensions import override

SCHEME = "lake://"


class LakeFiles(ArrowFSWrapper):  # type: ignore[misc]
    """Gives DuckDB read access to a pyarrow file system."""

    protocol = ("lake",)

    @classmethod
    @override
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(SCHEME)

    @override
    def _open(self, path: str, mode: str = "rb", **_: Any) -> _SharedFile:
        return _SharedFile(self.fs.open_input_file(path))


class _SharedFile:
    """An open file with a separate read position for each thread.

    DuckDB's threads share one file object, and each thread seeks before it reads.
    """

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._of = threading.local()

    def seek(self, offset: int, whence: int = 0) -> int:
        self._of.position = offset + {0: 0, 1: self.tell(), 2: self._file.size()}[whence]
        return self.tell()

    def tell(self) -> int:
        return getattr(self._of, "position", 0)

    def read(self, size: int) -> bytes:
        content: bytes = self._file.read_at(size, self.tell())
        self._of.position = self.tell() + len(content)
        return content

    def close(self) -> None:
        self._file.close()
