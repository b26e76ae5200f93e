"""The tables of the embedded ledger."""

VERSION = 1  # of the tables; stands in the file as `user_version`

_CHANGES = "".join(
    f"""
CREATE TRIGGER book_{event} AFTER {event} ON book
BEGIN
    INSERT INTO change
    SELECT campaign, (SELECT ifnull(max(number), 0) + 1 FROM change) FROM account WHERE id = NEW.account
    ON CONFLICT DO UPDATE SET number = excluded.number;
END;
"""
    for event in ("INSERT", "UPDATE")
)

TABLES = f"""
-- Amounts are nano-units (`money.py`), times seconds since 1970.
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    arm TEXT NOT NULL,
    campaign TEXT NOT NULL,
    channel TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('total', 'day', 'hour')),
    cap INTEGER NOT NULL CHECK (cap >= 0),  -- of a period that begins
    timezone TEXT NOT NULL,
    parts TEXT NOT NULL,  -- how its budget is divided
    start INTEGER NOT NULL,  -- of the present period
    until INTEGER NOT NULL,
    active INTEGER NOT NULL,
    UNIQUE (arm, campaign, channel, period)
);

CREATE INDEX account_of_campaign ON account (campaign);
CREATE INDEX due_account ON account (until) WHERE active;

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

-- The code checks before it reserves. This holds the cap even if that code has a fault.
CREATE TRIGGER hard_cap BEFORE UPDATE OF spent, reserved ON book
WHEN NEW.spent + NEW.reserved > NEW.cap AND NEW.spent + NEW.reserved > OLD.spent + OLD.reserved
BEGIN
    SELECT RAISE(ABORT, 'spent + reserved would exceed the limit');
END;

-- The number of the last change in the accounts of a campaign.
CREATE TABLE change (campaign TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX changed ON change (number);
{_CHANGES}
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

-- Pacing (`pacing_store.py`): the state of each account, and opportunities where they are the clock.
CREATE TABLE pacing_state (account TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pacing_opportunities (account TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;

-- Costs that were reported, by their event.
CREATE TABLE cost (
    reservation TEXT NOT NULL REFERENCES reservation (id),
    event TEXT NOT NULL,
    PRIMARY KEY (reservation, event)
) WITHOUT ROWID;

-- One row: a name of this ledger that no other has.
CREATE TABLE identity (name TEXT NOT NULL);
INSERT INTO identity (name) VALUES (lower(hex(randomblob(16))));
PRAGMA user_version = {VERSION};
"""
