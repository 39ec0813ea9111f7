-- A delivery to a stopped endpoint keeps its place in its lane; the state of its endpoint shows whether it is
-- paused. A job changes a whole backlog in batches.

-- The number of the latest job for all deliveries of the endpoint when the delivery was last queued.
ALTER TABLE deliveries ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endpoints ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
-- The time of the latest resumption. The age of deliveries queued before counts from then.
ALTER TABLE endpoints ADD COLUMN resumed_at_ms INTEGER;

-- At most one job of each kind for an endpoint. A number is never reused, because it is the generation that
-- the job starts.
CREATE TABLE backlog_jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint TEXT NOT NULL,
    kind TEXT NOT NULL,
    begun_at_ms INTEGER NOT NULL,
    -- The last upload processed, for a job that works by lanes.
    cursor BLOB NOT NULL DEFAULT x''
) STRICT;

UPDATE deliveries SET state = CASE
        WHEN upload_id IS NULL THEN 'ready'
        WHEN (SELECT terms ->> '$.ordering' FROM endpoints WHERE endpoints.id = deliveries.endpoint) IS 'none' THEN 'ready'
        WHEN (SELECT terms ->> '$.ordering' FROM endpoints WHERE endpoints.id = deliveries.endpoint) IS 'strict' THEN
            CASE WHEN EXISTS (SELECT 1 FROM deliveries AS earlier
                WHERE earlier.upload_id = deliveries.upload_id AND earlier.endpoint = deliveries.endpoint
                    AND earlier.finished_at_ms IS NULL AND earlier.sequence < deliveries.sequence)
            THEN 'waiting' ELSE 'ready' END
        WHEN attempts = 0 AND EXISTS (SELECT 1 FROM deliveries AS earlier
            WHERE earlier.upload_id = deliveries.upload_id AND earlier.endpoint = deliveries.endpoint
                AND earlier.finished_at_ms IS NULL AND earlier.attempts = 0 AND earlier.sequence < deliveries.sequence)
        THEN 'waiting' ELSE 'ready' END
    WHERE state = 'paused';

DROP INDEX deliveries_paused;

-- Pending deliveries of an endpoint by the time they began: those that are too old expire.
DROP INDEX deliveries_by_age;
CREATE INDEX deliveries_by_age ON deliveries (endpoint, begun_at_ms) WHERE state IN ('ready', 'waiting');
