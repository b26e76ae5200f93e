"""The tables of the embedded ledger. Amounts are nano-units, times seconds since 1970."""

import sqlite3

VERSION = 2

CREATE = f"""
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    arm TEXT NOT NULL,
    campaign TEXT NOT NULL,
    channel TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('total', 'day', 'hour')),
    cap INTEGER NOT NULL CHECK (cap >= 0),
    active INTEGER NOT NULL DEFAULT 1,
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
    UNIQUE (account, start)
);

-- The code checks before it reserves; the database does not take its word for it.
CREATE TRIGGER hard_cap BEFORE UPDATE OF spent, reserved ON book
WHEN NEW.spent + NEW.reserved > (SELECT cap FROM account WHERE id = NEW.account)
    AND NEW.spent + NEW.reserved > OLD.spent + OLD.reserved
BEGIN
    SELECT RAISE(ABORT, 'spent + reserved would exceed the limit');
END;

-- 'late': a cost came after the reservation was cancelled or had expired.
CREATE TABLE reservation (
    id TEXT PRIMARY KEY,
    scope TEXT,  -- JSON; null: unknown
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

PRAGMA user_version = {VERSION};
"""

# Version 1 knew neither periods nor times nor scopes. What was open starts to age now.
_NOW = "(julianday('now') - 2440587.5) * 86400"
_FROM_1 = (
    """
DROP TRIGGER hard_cap;
DROP INDEX open_reservation;
ALTER TABLE account RENAME TO account_1;
ALTER TABLE reservation RENAME TO reservation_1;
ALTER TABLE hold RENAME TO hold_1;
"""
    + CREATE
    + f"""
INSERT INTO account SELECT id, arm, campaign, channel, 'total', cap, active FROM account_1;
INSERT INTO book SELECT id, id, 0, spent, reserved, excess FROM account_1;
INSERT INTO reservation SELECT id, NULL, amount, state, {_NOW},
    iif(state = 'open', NULL, {_NOW}), charged, excess FROM reservation_1;
INSERT INTO hold SELECT reservation, account FROM hold_1;
DROP TABLE hold_1;
DROP TABLE reservation_1;
DROP TABLE account_1;
"""
)


def bring_up_to_date(db: sqlite3.Connection) -> int:
    """Turn a file of the version before into one of this version, in place; returns the version that it has now."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != 1:
        return int(version)
    db.execute("BEGIN IMMEDIATE")
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 1:  # nobody else did it while this one waited
            _run(db, _FROM_1)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return VERSION


def _run(db: sqlite3.Connection, script: str) -> None:
    """What `executescript` does, without the commit that it starts with."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
