"""Creates and reads ids of decisions. An id contains the time, the user's bucket and the router.

    made = decision_id("u1", identity="5f0c9a7e", at=time.time())   # 0193f00f-ab12-72a3-b1c4-9d3e5f0c9a7e
    HOUR, BUCKET        # SQL expressions of the column decision_id: the hour and bucket of a record's file in the lake

An id is a UUIDv7 (RFC 9562, section 5.7). Its first 48 bits are milliseconds since 1970. `rand_a` has 8 bits for one of
64 buckets. The first four bits of `rand_b` are the campaign's slot, which selects the Redis Cluster slot of the
reservation. The last 32 bits identify the router's spool. 30 random bits distinguish decisions of one millisecond.
"""

import re
import secrets
import time
from datetime import UTC, datetime
from zlib import crc32

from mtorl.log.records import unit_hash

BUCKETS = 64
CAMPAIGN_SLOTS = 16
FORM = "0[0-9a-f]{7}-[0-9a-f]{4}-7[0-3][0-9a-f]{2}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
"""A regular expression for ids. It accepts times until the year 2527, because Python has no times after 9999."""

TIME = "epoch_ms(('0x' || left(decision_id, 8) || substr(decision_id, 10, 4))::BIGINT)::TIMESTAMPTZ"
"""SQL: the time in `decision_id`; an error if the text is not an id."""
HOUR = f"date_trunc('hour', {TIME})"
"""SQL: the hour in `decision_id`."""
BUCKET = "('0x' || substr(decision_id, 16, 2))::UTINYINT"
"""SQL: the user's bucket in `decision_id`."""


def decision_id(user_id: str, identity: str, at: float | None = None, campaign: str = "") -> str:
    """A new id. `identity` is the spool's 8 hexadecimal digits; `at` is in seconds since 1970 (None: now)."""
    milliseconds = round(1000 * (time.time() if at is None else at))
    noise = secrets.token_hex(5)
    ms, variant = f"{milliseconds:012x}", f"{8 | int(noise[1], 16) & 3:x}{campaign_slot(campaign):x}"
    return f"{ms[:8]}-{ms[8:]}-7{bucket_of(user_id):02x}{noise[0]}-{variant}{noise[3:5]}-{noise[5:9]}{identity}"


def campaign_slot(campaign: str) -> int:
    """The slot of a campaign, from 0 to 15."""
    return crc32(campaign.encode("utf-8", "surrogatepass")) % CAMPAIGN_SLOTS


def slot_of(made: str) -> int:
    """The campaign slot in an id; if the text is not an id, the slot of the text as a campaign name."""
    return int(made[20], 16) if is_decision_id(made) else campaign_slot(made)


def bucket_of(user_id: str) -> int:
    """The bucket of a user, from 0 to 63, which depends only on `unit_hash`."""
    return bucket_of_hash(unit_hash(user_id))


def bucket_of_hash(hashed: str) -> int:
    """The bucket of a user's `unit_hash`."""
    return int(hashed[:2], 16) % BUCKETS


def is_decision_id(text: str) -> bool:
    """Whether a text is the id of a decision."""
    return re.fullmatch(FORM, text) is not None


def time_of(made: str) -> datetime:
    """The time in an id, UTC."""
    return datetime.fromtimestamp(int(made[:8] + made[9:13], 16) / 1000, UTC)
