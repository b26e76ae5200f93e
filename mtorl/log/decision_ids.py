"""Creates the ids of decisions, and reads their parts.

An id is a UUIDv7 (RFC 9562, section 5.7) with these parts:

    48 bits     milliseconds since 1970
    8 bits      the user's bucket, from 0 to 63
    4 bits      the campaign's slot, from 0 to 15, which selects the Redis Cluster slot of the reservation
    32 bits     the identity of the router's spool
    30 bits     random, to distinguish decisions in the same millisecond
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
"""Regular expression that matches decision ids. It accepts only times before the year 2527, because larger numbers
could mean years after 9999, which Python's datetime does not support."""

TIME = "epoch_ms(('0x' || left(decision_id, 8) || substr(decision_id, 10, 4))::BIGINT)::TIMESTAMPTZ"
"""SQL for the time that `decision_id` contains. It fails if the text is not a decision id."""
HOUR = f"date_trunc('hour', {TIME})"
"""SQL for the hour of the time that `decision_id` contains."""
BUCKET = "('0x' || substr(decision_id, 16, 2))::UTINYINT"
"""SQL for the user's bucket, which `decision_id` contains."""


def decision_id(user_id: str, identity: str, at: float | None = None, campaign: str = "") -> str:
    """Create the id of a new decision.

    Args:
        identity: Identity of the router's spool, as 8 hexadecimal digits.
        at: Time of the decision, in seconds since 1970; by default, now.
    """
    milliseconds = round(1000 * (time.time() if at is None else at))
    noise = secrets.token_hex(5)
    ms, variant = f"{milliseconds:012x}", f"{8 | int(noise[1], 16) & 3:x}{campaign_slot(campaign):x}"
    return f"{ms[:8]}-{ms[8:]}-7{bucket_of(user_id):02x}{noise[0]}-{variant}{noise[3:5]}-{noise[5:9]}{identity}"


def campaign_slot(campaign: str) -> int:
    """Return the slot of a campaign, from 0 to 15."""
    return crc32(campaign.encode("utf-8", "surrogatepass")) % CAMPAIGN_SLOTS


def slot_of(made: str) -> int:
    """Return the campaign's slot from a decision id or from the name of a campaign."""
    return int(made[20], 16) if is_decision_id(made) else campaign_slot(made)


def bucket_of(user_id: str) -> int:
    """Return the bucket of a user, from 0 to 63."""
    return bucket_of_hash(unit_hash(user_id))


def bucket_of_hash(hashed: str) -> int:
    """Return the bucket of a user from the user's `unit_hash`."""
    return int(hashed[:2], 16) % BUCKETS


def is_decision_id(text: str) -> bool:
    """Return whether a text has the form of a decision id."""
    return re.fullmatch(FORM, text) is not None


def time_of(made: str) -> datetime:
    """Return the time in a decision id, UTC."""
    return datetime.fromtimestamp(int(made[:8] + made[9:13], 16) / 1000, UTC)
