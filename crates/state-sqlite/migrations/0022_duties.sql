-- Background work that one node does for all.
CREATE TABLE duties (
    name TEXT NOT NULL PRIMARY KEY,
    instance BLOB NOT NULL,
    until_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: the highest epoch of a configuration of endpoints.
CREATE TABLE endpoint_configuration (epoch INTEGER NOT NULL) STRICT;
INSERT INTO endpoint_configuration VALUES (0);
