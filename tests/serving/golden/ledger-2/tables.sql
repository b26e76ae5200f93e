BEGIN TRANSACTION;
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
INSERT INTO "account" VALUES(1,'incumbent','*','*','total',5000000000,1);
INSERT INTO "account" VALUES(2,'challenger','*','*','total',5000000000,1);
INSERT INTO "account" VALUES(3,'incumbent','c1','*','day',1000000000,1);
INSERT INTO "account" VALUES(4,'challenger','c1','*','day',1000000000,1);
CREATE TABLE book (
    id INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account (id),
    start INTEGER NOT NULL,
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    excess INTEGER NOT NULL DEFAULT 0 CHECK (excess >= 0),
    UNIQUE (account, start)
);
INSERT INTO "book" VALUES(1,2,0,2500000000,500000000,0);
INSERT INTO "book" VALUES(2,4,1767225600,0,500000000,0);
INSERT INTO "book" VALUES(3,1,0,0,0,0);
CREATE TABLE hold (
    reservation TEXT NOT NULL REFERENCES reservation (id),
    book INTEGER NOT NULL REFERENCES book (id),
    PRIMARY KEY (reservation, book)
) WITHOUT ROWID;
INSERT INTO "hold" VALUES('cancelled',3);
INSERT INTO "hold" VALUES('expired',1);
INSERT INTO "hold" VALUES('expired',2);
INSERT INTO "hold" VALUES('open',1);
INSERT INTO "hold" VALUES('open',2);
INSERT INTO "hold" VALUES('settled',1);
CREATE TABLE memory (version INTEGER NOT NULL, text TEXT NOT NULL);
CREATE TABLE request (name TEXT PRIMARY KEY, reservation TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "request" VALUES('of cancelled','cancelled');
INSERT INTO "request" VALUES('of expired','expired');
INSERT INTO "request" VALUES('of open','open');
INSERT INTO "request" VALUES('of settled','settled');
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
INSERT INTO "reservation" VALUES('cancelled','["incumbent", "c2", "x"]',1000000000,'cancelled',1767268800.0,1767268800.0,0,0);
INSERT INTO "reservation" VALUES('expired','["challenger", "c1", "x"]',250000000,'expired',1767268800.0,1767268800.0,0,0);
INSERT INTO "reservation" VALUES('open','["challenger", "c1", "x"]',500000000,'open',1767268800.0,NULL,0,0);
INSERT INTO "reservation" VALUES('settled','["challenger", "c2", "x"]',3000000000,'settled',1767268800.0,1767268800.0,2500000000,0);
CREATE TRIGGER hard_cap BEFORE UPDATE OF spent, reserved ON book
WHEN NEW.spent + NEW.reserved > (SELECT cap FROM account WHERE id = NEW.account)
    AND NEW.spent + NEW.reserved > OLD.spent + OLD.reserved
BEGIN
    SELECT RAISE(ABORT, 'spent + reserved would exceed the limit');
END;
CREATE INDEX open_reservation ON reservation (created) WHERE state = 'open';
CREATE INDEX settled_reservation ON reservation (finished) WHERE state IN ('settled', 'late');
CREATE INDEX unpaid_reservation ON reservation (finished) WHERE state IN ('cancelled', 'expired');
CREATE INDEX requested ON request (reservation);
COMMIT;
PRAGMA user_version = 2;
