"""A log that is read while others write it: a file that is gone meanwhile is one clear error.

with saying_what_was_removed():
    db.execute("SELECT ... FROM read_parquet(...)")
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtorl.log.touchpoints import LogError

_PARQUET = re.compile(r'"([^"]+\.parquet)"')


@contextmanager
def saying_what_was_removed() -> Iterator[None]:
    """Turn what DuckDB says of a Parquet file that is no longer there into an error for people.

    Raises:
        LogError: A file was removed that the block reads.
    """
    import duckdb

    try:
        yield
    except duckdb.IOException as error:
        named = _PARQUET.search(str(error))
        if named is None or Path(named[1]).exists():
            raise
        raise LogError(
            f"{named[1]}: removed while it was read, as an export removes what is old or superseded; nothing is lost, "
            "try again"
        ) from error
