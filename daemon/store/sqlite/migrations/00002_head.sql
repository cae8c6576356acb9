-- What the head authenticates; the package comment of store has the format.
-- No row that exists is touched: their hashes are filled in when the head is
-- first written.

-- +goose Up
CREATE TABLE head (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    document TEXT    NOT NULL,
    mac      BLOB    NOT NULL
) STRICT;

-- The digest of each row as of the last commit. Nothing trusts it: it serves
-- to say which rows differ once the head has shown that some do.
CREATE TABLE row_hashes (
    row_table TEXT NOT NULL,
    name      TEXT NOT NULL,
    digest    BLOB NOT NULL,
    PRIMARY KEY (row_table, name)
) STRICT, WITHOUT ROWID;
