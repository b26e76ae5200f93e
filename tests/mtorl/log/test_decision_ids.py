"""Tests that decision ids are valid UUIDs (RFC 9562) that contain their records' place in the lake."""

import uuid
from collections import Counter
from datetime import UTC, datetime

import duckdb
from hypothesis import given
from hypothesis import strategies as st

from mtorl.log import decision_ids as ids
from mtorl.log.decision_ids import decision_id, is_decision_id

TIMES = st.floats(0, 4e9, allow_nan=False)


@given(user=st.text(min_size=1), identity=st.from_regex("[0-9a-f]{8}", fullmatch=True), at=TIMES)
def test_an_id_contains_time_bucket_and_router(user: str, identity: str, at: float) -> None:
    made = decision_id(user, identity, at)
    parsed = uuid.UUID(made)
    assert str(parsed) == made and parsed.version == 7 and parsed.variant == uuid.RFC_4122
    assert is_decision_id(made) and made.endswith(identity)
    assert abs(ids.time_of(made).timestamp() - at) <= 0.0006
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        row = db.execute(f"SELECT {ids.HOUR}, {ids.BUCKET} FROM (SELECT ? AS decision_id)", [made]).fetchone()
    assert row == (datetime.fromtimestamp(round(1000 * at) / 1000 // 3600 * 3600, UTC), ids.bucket_of(user))


@given(campaign=st.text())
def test_an_id_contains_the_slot_of_its_campaign(campaign: str) -> None:
    made = decision_id("u", "5f0c9a7e", campaign=campaign)
    assert is_decision_id(made) and uuid.UUID(made).variant == uuid.RFC_4122
    assert ids.slot_of(made) == ids.campaign_slot(campaign) < ids.CAMPAIGN_SLOTS
    assert ids.slot_of(campaign) == ids.campaign_slot(campaign), "other texts have the slot of their own hash"


def test_ids_are_unique_and_sort_by_time() -> None:
    # A router with 50,000 decisions a second makes 50 ids per millisecond. Here, all have the same bucket and slot.
    made = [decision_id("u", "5f0c9a7e", 1e9) for _ in range(50)]
    assert len(set(made)) == len(made), "fails once in a million runs: 1,225 pairs of 30 random bits"
    later = [decision_id("u", "5f0c9a7e", 1e9 + i) for i in range(100)]
    assert later == sorted(later)


def test_users_spread_over_all_buckets() -> None:
    counts = Counter(ids.bucket_of(f"u{i}") for i in range(64_000))
    assert len(counts) == ids.BUCKETS and min(counts.values()) > 800 and max(counts.values()) < 1200


def test_other_texts_are_not_ids() -> None:
    good = decision_id("u", "5f0c9a7e")
    wrong = ("f" + good[1:], good.upper(), good + "0", f"{good[:15]}7f{good[17:]}")  # the first is in the year 10000
    for other in ("", "d1", uuid.uuid4().hex, str(uuid.uuid4()), *wrong):
        assert not is_decision_id(other)
    assert ids.BUCKETS == 64
