-- At most one row: the move of all records to another database. No server uses this one from then on.
CREATE TABLE moves (
    id BLOB NOT NULL PRIMARY KEY,
    target TEXT NOT NULL,
    is_finished INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
