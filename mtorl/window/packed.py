"""Packs the last touchpoints of a user into one value of the online store, about 0.5 kB for 20 touchpoints.

The value is JSON with one list for each column, compressed with zlib and a dictionary.
"""

import json
import zlib
from itertools import accumulate, pairwise
from typing import Any

from mtorl.log.columns import WindowError
from mtorl.window.messages import NOT_PACKED

UserHistory = dict[str, list[Any]]
"""The newest touchpoints of a user, as lists of equal length: one list for each column of `history_types`."""

DECISION, EVENTS = "decision", "events"
"""Columns of a history that only the feed needs. DECISION has a digest of the decision's id, or "" for a touchpoint of
the log. EVENTS has the digests of the touchpoint's outcomes, joined to one text; it begins with LOGGED if the log has
outcomes for the touchpoint."""
LOGGED = "log."

# Version of the format and of its compression dictionary.
_VERSION = b"\x01"
_DICTIONARY = (
    b'"search","social","display","video"],"hist_device":["desktop","tablet","mobile","phone"],"hist_placement":["feed"'
    b'],"hist_hour":[23.0,22.0,21.0,20.0,19.0,18.0,17.0,16.0,15.0,14.0,13.0,12.0,11.0,10.0,9.0,8.0,7.0,6.0,5.0,4.0,3.0'
    b',2.0,1.0],"decision":["","",""],"events":["","log.","",""],"hist_conversion_time":[NaN,NaN,NaN],'
    b'{"hist_timestamp":[1750000000000000,"hist_channel":["hist_cost":[0.0,"hist_click":[1.0,0.0,0.0,0.0,1.0,0.0],'
    b'"hist_conversion":[0.0,0.0,0.0,0.0],"hist_revenue":[0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0],'
)


def pack(history: UserHistory) -> bytes:
    """Compress a user's history to one value."""
    times = [int(time) for time in history["hist_timestamp"]]
    columns = {name: values for name, values in history.items() if name not in (DECISION, EVENTS) or any(values)}
    columns["hist_timestamp"] = [*times[:1], *(later - earlier for earlier, later in pairwise(times))]
    text = json.dumps(columns, separators=(",", ":"), ensure_ascii=False).encode()
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zdict=_DICTIONARY)
    return _VERSION + packer.compress(text) + packer.flush()


def unpack(value: bytes) -> UserHistory:
    """Restore a history that `pack` has compressed.

    Raises:
        WindowError: The value has another version of the format, or is damaged.
    """
    try:
        if value[:1] != _VERSION:
            raise ValueError(f"version {value[:1]!r}")
        columns: UserHistory = json.loads(zlib.decompressobj(-zlib.MAX_WBITS, zdict=_DICTIONARY).decompress(value[1:]))
        columns["hist_timestamp"] = [float(time) for time in accumulate(columns["hist_timestamp"])]
        return columns
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise WindowError(NOT_PACKED(reason=error)) from None


def served(history: UserHistory) -> UserHistory:
    """Return the touchpoints of a history that have certainly taken place.

    A decision to show an ad may be cancelled, so it counts only after an outcome has been reported.
    """
    decisions = history.get(DECISION)
    events = history.get(EVENTS) or [""] * len(history["hist_timestamp"])
    columns = {name: values for name, values in history.items() if name not in (DECISION, EVENTS)}
    if decisions is None or all(event or not decision for decision, event in zip(decisions, events, strict=True)):
        return columns
    places = [i for i, decision in enumerate(decisions) if events[i] or not decision]
    return {name: [values[i] for i in places] for name, values in columns.items()}
