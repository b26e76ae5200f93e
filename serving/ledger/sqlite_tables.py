"""The tables of the embedded ledger, and how those of the version before become them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

VERSION = 3  # of the tables; stands in the file
MOVED = -VERSION  # stands there after `move_to_redis`: nobody spends from this file any more
MOVING = -100 - VERSION  # likewise, in the last steps of a move; only the move itself goes on from here
ANY_EVENT = "*"  # in the table of costs: that of a reservation which an earlier version settled
_BEFORE = 2  # the version that is brought up to date when it is opened

_HARD_CAP = """
-- The code checks before it reserves. This holds the cap even if that code has a fault.
CREATE TRIGGER hard_cap BEFORE UPDATE OF spent, reserved ON book
WHEN NEW.spent + NEW.reserved > NEW.cap AND NEW.spent + NEW.reserved > OLD.spent + OLD.reserved
BEGIN
    SELECT RAISE(ABORT, 'spent + reserved would exceed the limit');
END;
"""

_NEW = """
-- Costs that were reported; '*' stands for any, and a blob for the event that is called so (`event_key`).
CREATE TABLE cost (
    reservation TEXT NOT NULL REFERENCES reservation (id),
    event TEXT NOT NULL,
    PRIMARY KEY (reservation, event)
) WITHOUT ROWID;

-- One row: a name of this ledger that no other has, and where it was moved to.
CREATE TABLE identity (name TEXT NOT NULL, moved_to TEXT);
"""

TABLES = f"""
-- Amounts are nano-units (`money.py`), times seconds since 1970.
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    arm TEXT NOT NULL,
    campaign TEXT NOT NULL,
    channel TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('total', 'day', 'hour')),
    cap INTEGER NOT NULL CHECK (cap >= 0),  -- of a period that begins
    active INTEGER NOT NULL DEFAULT 1,
    timezone TEXT NOT NULL DEFAULT 'UTC',
    parts TEXT NOT NULL DEFAULT '',  -- how its budget is divided
    start INTEGER NOT NULL DEFAULT 0,  -- of the present period
    until INTEGER NOT NULL DEFAULT 0,
    UNIQUE (arm, campaign, channel, period)
);

-- What an account's period has seen. Books are kept: one row for each account and period, whatever the traffic.
CREATE TABLE book (
    id INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account (id),
    start INTEGER NOT NULL,
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    excess INTEGER NOT NULL DEFAULT 0 CHECK (excess >= 0),
    cap INTEGER NOT NULL DEFAULT 0 CHECK (cap >= 0),
    UNIQUE (account, start)
);
{_HARD_CAP}
-- 'late': a cost came after the reservation was cancelled or had expired.
CREATE TABLE reservation (
    id TEXT PRIMARY KEY,
    scope TEXT,  -- JSON of arm, campaign and channel; null: it was cancelled before it was reserved
    amount INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'cancelled', 'expired', 'late')),
    created REAL NOT NULL,
    finished REAL,
    charged INTEGER NOT NULL DEFAULT 0,
    excess INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX open_reservation ON reservation (created) WHERE state = 'open';
CREATE INDEX settled_reservation ON reservation (finished) WHERE state IN ('settled', 'late');
CREATE INDEX unpaid_reservation ON reservation (finished) WHERE state IN ('cancelled', 'expired');

-- The books that a reservation draws on; they are settled even if the experiment no longer names the accounts.
CREATE TABLE hold (
    reservation TEXT NOT NULL REFERENCES reservation (id),
    book INTEGER NOT NULL REFERENCES book (id),
    PRIMARY KEY (reservation, book)
) WITHOUT ROWID;

-- The last reservation for a request: a request that comes again, on whichever router, is not paid for twice.
CREATE TABLE request (name TEXT PRIMARY KEY, reservation TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX requested ON request (reservation);

-- What the pacing controller remembers between two updates: one row at most.
CREATE TABLE memory (version INTEGER NOT NULL, text TEXT NOT NULL);
{_NEW}
INSERT INTO identity (name) VALUES (lower(hex(randomblob(16))));
PRAGMA user_version = {VERSION};
"""

# From version 2, whose accounts each bound one arm, in UTC: what the arms have spent is what the experiment has. Of a
# reservation that is settled there, it is not known which event has told its cost.
_BRING_UP_TO_DATE = f"""
DROP TRIGGER hard_cap;
ALTER TABLE account ADD COLUMN timezone TEXT NOT NULL DEFAULT 'UTC';
ALTER TABLE account ADD COLUMN parts TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN start INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN until INTEGER NOT NULL DEFAULT 0;
ALTER TABLE book ADD COLUMN cap INTEGER NOT NULL DEFAULT 0 CHECK (cap >= 0);
UPDATE book SET cap = (SELECT cap FROM account WHERE id = book.account);
UPDATE account SET start = ifnull((SELECT max(start) FROM book WHERE account = account.id), 0);
INSERT INTO account (arm, campaign, channel, period, cap, active, start)
    SELECT '*', campaign, channel, period, 0, 0, max(start) FROM account GROUP BY campaign, channel, period;
CREATE TEMPORARY VIEW part AS
    SELECT book.*, whole.id AS whole FROM book JOIN account arm ON arm.id = book.account
    JOIN account whole USING (campaign, channel, period) WHERE whole.arm = '*' AND arm.arm != '*';
INSERT INTO book (account, start, spent, reserved, excess)
    SELECT whole, start, sum(spent), sum(reserved), sum(excess) FROM part GROUP BY whole, start;
INSERT OR IGNORE INTO hold
    SELECT hold.reservation, book.id FROM hold JOIN part ON part.id = hold.book
    JOIN book ON book.account = part.whole AND book.start = part.start;
DROP VIEW part;
{_HARD_CAP}
{_NEW}
INSERT INTO cost SELECT id, '*' FROM reservation WHERE state IN ('settled', 'late');
CREATE TABLE IF NOT EXISTS moved (generation TEXT NOT NULL, target TEXT);
INSERT INTO moved SELECT lower(hex(randomblob(16))), NULL WHERE NOT EXISTS (SELECT 1 FROM moved);
INSERT INTO identity SELECT generation, target FROM moved;
DROP TABLE moved;
"""


def event_key(event: str) -> str | bytes:
    """How the table of costs names an event: as itself, unless that is the name which stands for any."""
    return event.encode() if event == ANY_EVENT else event


def bring_up_to_date(db: sqlite3.Connection) -> int:
    """Bring the tables to this version, inside the caller's transaction; returns what `user_version` says then."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version in (_BEFORE, -_BEFORE, -100 - _BEFORE):
        for statement in _statements(_BRING_UP_TO_DATE):
            db.execute(statement)
        version += VERSION - _BEFORE if version > 0 else _BEFORE - VERSION
        db.execute(f"PRAGMA user_version = {version}")
    return int(version)


def _statements(script: str) -> Iterator[str]:
    """Of a script, one after another: `executescript` would end the transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
