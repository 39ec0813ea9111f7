-- Uploads, the log of their events, and the deliveries of those events.
--
-- Instants are whole milliseconds since 1970, UTC. Lists are JSON. Identifiers are the 16 bytes of a UUIDv7.

-- Values that change while bytes arrive, and no others: a checkpoint rewrites this row, so it is kept short.
-- Without a rowid a commit touches one tree, not two.
CREATE TABLE uploads (
    id BLOB NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    stage TEXT NOT NULL,
    role TEXT NOT NULL,
    length INTEGER,
    received TEXT NOT NULL,
    wanted_digests TEXT NOT NULL,
    promised_digests TEXT NOT NULL,
    running_digests BLOB NOT NULL,
    digests TEXT NOT NULL,
    resume BLOB,
    bytes_kept INTEGER NOT NULL,
    timeline TEXT NOT NULL,
    failure_code TEXT,
    failure_message TEXT,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,
    next_sequence INTEGER NOT NULL,
    last_progress_offset INTEGER NOT NULL,
    last_progress_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX uploads_by_stage ON uploads (stage, id);

-- One partial index for each selection of the sweeper. Statements name the index, so a condition that differs
-- from it is an error.
CREATE INDEX uploads_unsettled ON uploads (id)
    WHERE stage IN ('verified', 'stored') OR (stage = 'received' AND role <> 'partial') OR (stage = 'created' AND role = 'final');
CREATE INDEX uploads_expiring ON uploads (expires_at_ms)
    WHERE stage IN ('created', 'receiving', 'stalled') OR (stage = 'received' AND role = 'partial');
CREATE INDEX uploads_receiving ON uploads (updated_at_ms)
    WHERE stage = 'receiving';
CREATE INDEX uploads_removable ON uploads (id)
    WHERE bytes_kept = 1 AND stage IN ('failed', 'expired', 'terminated');

-- Values that are set at creation.
CREATE TABLE upload_origins (
    id BLOB NOT NULL PRIMARY KEY,
    dialect TEXT NOT NULL,
    parts TEXT,
    parts_as_sent TEXT,
    metadata TEXT NOT NULL,
    metadata_as_sent TEXT
) STRICT;

-- A copy of the metadata for searches. Values over 1 KiB are left out.
CREATE TABLE upload_metadata (
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    upload_id BLOB NOT NULL,
    PRIMARY KEY (key, value, upload_id)
) STRICT, WITHOUT ROWID;

-- Append only. A position is never reused, even if rows are removed, because readers keep it as a bookmark.
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL,
    upload_id BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,
    occurred_at_ms INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (upload_id, sequence)
) STRICT;

CREATE TABLE endpoints (
    id TEXT NOT NULL PRIMARY KEY,
    paused_at_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (
    id BLOB NOT NULL PRIMARY KEY,
    event_position INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    kind TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    upload_id BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at_ms INTEGER NOT NULL,
    lease BLOB,
    lease_until_ms INTEGER,
    created_at_ms INTEGER NOT NULL,
    finished_at_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_by_upload ON deliveries (upload_id, id);

-- A claim reads the due rows of one endpoint and never walks finished rows or the backlog of another
-- endpoint.
CREATE INDEX deliveries_ready ON deliveries (endpoint, next_at_ms, sequence) WHERE state = 'ready';
CREATE INDEX deliveries_leased ON deliveries (endpoint, lease_until_ms) WHERE state = 'leased';
CREATE INDEX deliveries_waiting ON deliveries (upload_id, endpoint, sequence) WHERE state = 'waiting';
CREATE INDEX deliveries_paused ON deliveries (endpoint) WHERE state = 'paused';
CREATE INDEX deliveries_dead ON deliveries (id) WHERE state = 'dead';
-- Deliveries that hold back later ones of the same endpoint and upload.
CREATE INDEX deliveries_unsent ON deliveries (upload_id, endpoint, sequence) WHERE attempts = 0 AND finished_at_ms IS NULL;
CREATE INDEX deliveries_progress ON deliveries (upload_id) WHERE kind = 'upload.progress' AND finished_at_ms IS NULL;

-- Append only.
CREATE TABLE attempts (
    delivery_id BLOB NOT NULL,
    number INTEGER NOT NULL,
    started_at_ms INTEGER NOT NULL,
    took_us INTEGER NOT NULL,
    status INTEGER,
    error TEXT,
    response_body BLOB NOT NULL,
    note TEXT,
    PRIMARY KEY (delivery_id, number, started_at_ms)
) STRICT, WITHOUT ROWID;

-- One row, rewritten to check that writing works.
CREATE TABLE health (checks INTEGER NOT NULL) STRICT;
INSERT INTO health (checks) VALUES (0);
