-- Which node sends a delivery now, and which endpoints the configuration of each node names.
ALTER TABLE deliveries ADD COLUMN claimed_by BLOB;

CREATE TABLE node_endpoints (
    instance BLOB NOT NULL,
    endpoint TEXT NOT NULL,
    PRIMARY KEY (instance, endpoint)
) STRICT, WITHOUT ROWID;
