-- What waits to be sent, by how long it has been under way: what is too old is given up.
CREATE INDEX deliveries_by_age ON deliveries (begun_at_ms) WHERE state IN ('ready', 'waiting');
