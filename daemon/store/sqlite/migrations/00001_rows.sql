-- One table for each kind of row. A row is a JSON document; the fields that
-- identify it are columns too, in the order of the primary key, so that the
-- database can be looked into with any SQLite tool and so that SQLite itself
-- refuses what would contradict. The program reads whole tables once, when it
-- opens the store: there is no index that only a query would need.

-- +goose Up
PRAGMA application_id = 1668115300; -- "cmkd"

CREATE TABLE keys (
    region   TEXT NOT NULL,
    id       TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (region, id)
) STRICT, WITHOUT ROWID;

-- Versions belong to the key ID in every Region: there is no one key row that
-- they could refer to.
CREATE TABLE versions (
    key_id   TEXT    NOT NULL,
    number   INTEGER NOT NULL,
    cka_id   BLOB    NOT NULL UNIQUE,
    document TEXT    NOT NULL,
    PRIMARY KEY (key_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE aliases (
    region   TEXT NOT NULL,
    name     TEXT NOT NULL,
    key_id   TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (region, name),
    FOREIGN KEY (region, key_id) REFERENCES keys (region, id) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

-- Deleting a key makes SQLite look for aliases that refer to it.
CREATE INDEX aliases_of_key ON aliases (region, key_id);

CREATE TABLE grants (
    region   TEXT NOT NULL,
    key_id   TEXT NOT NULL,
    id       TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (region, key_id, id),
    FOREIGN KEY (region, key_id) REFERENCES keys (region, id) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE TABLE usages (
    region   TEXT NOT NULL,
    key_id   TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (region, key_id),
    FOREIGN KEY (region, key_id) REFERENCES keys (region, id) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE TABLE intents (
    cka_id   BLOB NOT NULL PRIMARY KEY,
    document TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE system_keys (
    token    TEXT    NOT NULL,
    purpose  TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    document TEXT    NOT NULL,
    PRIMARY KEY (token, purpose, version)
) STRICT, WITHOUT ROWID;

-- Import parameters name an RSA pair in the token that must be destroyed even
-- if the key is gone before them: no foreign key.
CREATE TABLE import_parameters (
    token_hash BLOB NOT NULL PRIMARY KEY,
    document   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE custom_key_stores (
    region   TEXT NOT NULL,
    id       TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (region, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE settings (
    name     TEXT NOT NULL PRIMARY KEY,
    document TEXT NOT NULL
) STRICT, WITHOUT ROWID;
