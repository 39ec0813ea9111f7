-- Endpoints with all their terms, events that are not about an upload, deliveries that can be sent again.

-- The id of an upload becomes optional.
CREATE TABLE events_new (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL,
    upload_id BLOB,
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,
    occurred_at_ms INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (upload_id, sequence)
) STRICT;
INSERT INTO events_new SELECT position, id, upload_id, sequence, kind, occurred_at_ms, body FROM events;
DROP TABLE events;
ALTER TABLE events_new RENAME TO events;

CREATE TABLE endpoints_new (
    id TEXT NOT NULL PRIMARY KEY,
    origin TEXT NOT NULL,
    -- 0 if the configuration no longer names the endpoint; its deliveries are kept until it is named again.
    present INTEGER NOT NULL,
    terms TEXT NOT NULL,
    sealed BLOB NOT NULL,
    state TEXT NOT NULL,
    state_since_ms INTEGER,
    disabled_because TEXT,
    consecutive_failures INTEGER NOT NULL DEFAULT 0,
    failing_since_ms INTEGER,
    exhausted INTEGER NOT NULL DEFAULT 0,
    open_until_ms INTEGER,
    warned_percent INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO endpoints_new (id, origin, present, terms, sealed, state, state_since_ms, disabled_because, version,
        created_at_ms, updated_at_ms)
    SELECT id, 'config', 0, '{}', x'', CASE WHEN paused_at_ms IS NULL THEN 'enabled' ELSE 'disabled' END, paused_at_ms,
        CASE WHEN paused_at_ms IS NULL THEN NULL ELSE 'gone' END, 0, 0, 0
    FROM endpoints;
DROP TABLE endpoints;
ALTER TABLE endpoints_new RENAME TO endpoints;

CREATE TABLE deliveries_new (
    id BLOB NOT NULL PRIMARY KEY,
    event_position INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    kind TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    upload_id BLOB,
    sequence INTEGER NOT NULL,
    state TEXT NOT NULL,
    trigger TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    -- The number of attempts before the latest replay.
    attempts_before INTEGER NOT NULL,
    begun_at_ms INTEGER NOT NULL,
    next_at_ms INTEGER NOT NULL,
    lease BLOB,
    lease_until_ms INTEGER,
    created_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER
) STRICT, WITHOUT ROWID;
INSERT INTO deliveries_new (id, event_position, event_id, kind, endpoint, upload_id, sequence, state, trigger, attempts,
        attempts_before, begun_at_ms, next_at_ms, lease, lease_until_ms, created_at_ms, finished_at_ms)
    SELECT id, event_position, event_id, kind, endpoint, upload_id, sequence, state, 'auto', attempts, 0, created_at_ms,
        next_at_ms, lease, lease_until_ms, created_at_ms, finished_at_ms
    FROM deliveries;
DROP TABLE deliveries;
ALTER TABLE deliveries_new RENAME TO deliveries;

CREATE INDEX deliveries_by_upload ON deliveries (upload_id, id);

-- A claim reads the due rows of one endpoint and never walks finished rows or the backlog of another
-- endpoint.
CREATE INDEX deliveries_ready ON deliveries (endpoint, next_at_ms, sequence) WHERE state = 'ready';
CREATE INDEX deliveries_leased ON deliveries (endpoint, lease_until_ms) WHERE state = 'leased';
CREATE INDEX deliveries_waiting ON deliveries (endpoint, upload_id, sequence) WHERE state = 'waiting';
CREATE INDEX deliveries_paused ON deliveries (endpoint) WHERE state = 'paused';
CREATE INDEX deliveries_dead ON deliveries (id) WHERE state = 'dead';
-- Deliveries that may hold back later ones of the same endpoint and upload.
CREATE INDEX deliveries_unfinished ON deliveries (upload_id, endpoint, sequence) WHERE finished_at_ms IS NULL;
CREATE INDEX deliveries_progress ON deliveries (upload_id) WHERE kind = 'upload.progress' AND finished_at_ms IS NULL;

ALTER TABLE attempts ADD COLUMN trigger TEXT NOT NULL DEFAULT 'auto';
ALTER TABLE attempts ADD COLUMN dns_us INTEGER;
ALTER TABLE attempts ADD COLUMN connect_us INTEGER;
ALTER TABLE attempts ADD COLUMN first_byte_us INTEGER;
ALTER TABLE attempts ADD COLUMN remote TEXT;
ALTER TABLE attempts ADD COLUMN response_headers TEXT;

-- Jobs that send many deliveries again, with their positions in the log.
CREATE TABLE replay_jobs (
    id BLOB NOT NULL PRIMARY KEY,
    endpoint TEXT NOT NULL,
    what TEXT NOT NULL,
    from_ms INTEGER NOT NULL,
    before_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    queued INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER
) STRICT, WITHOUT ROWID;
