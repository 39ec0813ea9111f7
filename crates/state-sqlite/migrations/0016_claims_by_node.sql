-- The node that is sending a delivery, and the endpoints that the configuration of each node names.
ALTER TABLE deliveries ADD COLUMN claimed_by BLOB;

CREATE TABLE node_endpoints (
    instance BLOB NOT NULL,
    endpoint TEXT NOT NULL,
    PRIMARY KEY (instance, endpoint)
) STRICT, WITHOUT ROWID;
