-- Pending deliveries by the time they began: those that are too old expire.
CREATE INDEX deliveries_by_age ON deliveries (begun_at_ms) WHERE state IN ('ready', 'waiting');
