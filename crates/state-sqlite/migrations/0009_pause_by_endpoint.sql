-- A delivery to a stopped endpoint keeps its place in its lane; whether it is paused is what its endpoint says. What
-- changes a whole backlog is a job that works through it in pieces.

-- The number of the last job that concerned all deliveries of the endpoint when the delivery was last queued.
ALTER TABLE deliveries ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endpoints ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
-- Since when it has been sent to again. What was queued before then counts its age from then.
ALTER TABLE endpoints ADD COLUMN resumed_at_ms INTEGER;

-- At most one of each kind for an endpoint. A number is never given twice: it is the generation it makes.
CREATE TABLE backlog_jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint TEXT NOT NULL,
    kind TEXT NOT NULL,
    begun_at_ms INTEGER NOT NULL,
    -- The last upload that a job by lanes has dealt with.
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

-- What waits to be sent to an endpoint, by how long it has been under way: what is too old is given up.
DROP INDEX deliveries_by_age;
CREATE INDEX deliveries_by_age ON deliveries (endpoint, begun_at_ms) WHERE state IN ('ready', 'waiting');
