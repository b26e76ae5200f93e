"""The tables of the embedded ledger. Amounts are nano-units; user_version is the version of this schema."""

VERSION = 1

CREATE = f"""
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    arm TEXT NOT NULL,
    campaign TEXT NOT NULL,
    channel TEXT NOT NULL,
    cap INTEGER NOT NULL CHECK (cap >= 0),
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    excess INTEGER NOT NULL DEFAULT 0 CHECK (excess >= 0),
    active INTEGER NOT NULL DEFAULT 1,
    UNIQUE (arm, campaign, channel)
);

-- The code checks before it reserves; the database does not take its word for it.
CREATE TRIGGER hard_cap BEFORE UPDATE OF spent, reserved ON account
WHEN NEW.spent + NEW.reserved > NEW.cap AND NEW.spent + NEW.reserved > OLD.spent + OLD.reserved
BEGIN
    SELECT RAISE(ABORT, 'spent + reserved would exceed the limit');
END;

CREATE TABLE reservation (
    id TEXT PRIMARY KEY,
    amount INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'cancelled')),
    charged INTEGER NOT NULL DEFAULT 0,
    excess INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX open_reservation ON reservation (id) WHERE state = 'open';

-- The accounts that a reservation draws on; they are settled even if the experiment no longer names them.
CREATE TABLE hold (
    reservation TEXT NOT NULL REFERENCES reservation (id),
    account INTEGER NOT NULL REFERENCES account (id),
    PRIMARY KEY (reservation, account)
) WITHOUT ROWID;

PRAGMA user_version = {VERSION};
"""
