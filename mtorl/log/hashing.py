"""Hashes that are the same on every machine and in every run: of ids, and of the content of Arrow columns.

The digest of a column does not depend on how it is cut into batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def hash_ids(ids: Iterable[str], purpose: str) -> NDArray[np.uint64]:
    """Eight bytes of BLAKE2b for each id; hashes for different purposes (16 bytes at most) are independent."""
    person = purpose.encode()[:16]
    digests = b"".join(hashlib.blake2b(str(i).encode(), digest_size=8, person=person).digest() for i in ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def fractions_of(ids: Iterable[str], purpose: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each id, independent for each purpose; see `hash_ids`."""
    return (hash_ids(ids, purpose) >> np.uint64(11)).astype(np.float64) / 2.0**53


class ColumnDigest:
    """Running digest of a column's values, lengths of texts or lists, and nulls.

    Neither the memory behind a null, which depends on the writer, nor the column's type counts.
    """

    def __init__(self) -> None:
        self._values, self._lengths, self._nulls = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        self._items: ColumnDigest | None = None  # of a column of lists
        self._rows = 0

    def update(self, array: pa.Array) -> None:
        """Add the next values: numbers, times, text or lists of them."""
        if array.null_count:
            self._nulls.update((np.flatnonzero(array.is_null().to_numpy(False)) + self._rows).astype("<i8").tobytes())
        self._rows += len(array)
        if pa.types.is_list(array.type):
            self._items = self._items or ColumnDigest()
            self._items.update(array.flatten())
            self._lengths.update(pc.list_value_length(array).fill_null(0).to_numpy().astype("<i4").tobytes())
        elif pa.types.is_string(array.type):
            # The texts of an array lie in memory one after the other, once no null hides bytes between them.
            array = array.fill_null("") if array.null_count else array
            offsets = np.frombuffer(array.buffers()[1] or b"", "<i4")[array.offset : array.offset + len(array) + 1]
            if len(array) and (data := array.buffers()[2]):
                self._values.update(memoryview(data)[offsets[0] : offsets[-1]])
            self._lengths.update(pc.binary_length(array).fill_null(0).to_numpy().astype("<i4").tobytes())
        else:
            filled = array.fill_null(pa.scalar(0, pa.int64()).cast(array.type)) if array.null_count else array
            self._values.update(np.ascontiguousarray(filled.to_numpy(False)).view("u1").data)

    def hexdigest(self) -> str:
        """The digest so far."""
        items = self._items.hexdigest() if self._items else ""
        return f"{self._values.hexdigest()}:{self._lengths.hexdigest()}:{self._nulls.hexdigest()}:{items}"
