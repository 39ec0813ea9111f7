-- Runs of the program at work, and the uploads they hold. A node without an end counts as alive until it
-- leaves, or until a node joins that is alone.
CREATE TABLE nodes (
    instance BLOB NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    alive_until_ms INTEGER
) STRICT, WITHOUT ROWID;

ALTER TABLE uploads ADD COLUMN holder BLOB;
ALTER TABLE uploads ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
