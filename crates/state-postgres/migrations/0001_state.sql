-- Uploads, the log of their events, the deliveries of those events, and the nodes at work.
--
-- Times are integers: milliseconds since 1970, UTC, as in the rows of every adapter. Lists are stored as JSON text.
-- Identifiers are UUIDv7. PostgreSQL does not support NUL characters in text: src/text.rs escapes them.
--
-- Tables of uploads are partitioned by day on the identifier itself, which begins with its time; the program creates the
-- partitions. `bucket` is the last two bytes of the same identifier modulo 64. Both are part of every key, so that the
-- tables can be distributed later. Rows that are not about an upload have the identifier of their event as `source_id`.

-- One row. A program below `min_program` must not use this database.
CREATE TABLE schema (version integer NOT NULL, min_program integer NOT NULL);

-- Values that change with the stage of an upload, and values set at its creation. `changed_about_ms` and
-- `expires_about_ms` are the exact values of upload_progress, rounded down, so that a checkpoint rarely updates an index.
CREATE TABLE uploads (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    tenant bigint NOT NULL,
    stage text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL,
    length bigint,
    wanted_digests text NOT NULL,
    promised_digests text NOT NULL,
    digests text NOT NULL,
    bytes_kept boolean NOT NULL,
    timeline text NOT NULL,
    failure_code text,
    failure_message text,
    failure_status bigint,
    created_at_ms bigint NOT NULL,
    facts text,
    accepted_at_ms bigint,
    reports text,
    removed_at_ms bigint,
    removed_by text COLLATE "C",
    missing_since_ms bigint,
    generations text,
    dialect text COLLATE "C" NOT NULL,
    write_order text COLLATE "C" NOT NULL,
    completion text COLLATE "C" NOT NULL,
    parts text,
    parts_as_sent text,
    metadata text NOT NULL,
    metadata_as_sent text,
    max_bytes bigint,
    expires_by_ms bigint,
    changed_about_ms bigint NOT NULL,
    expires_about_ms bigint,
    -- True for an open upload, not a final one, that has received all bytes.
    is_full boolean NOT NULL,
    completed_at_ms bigint,
    content_type text COLLATE "C",
    width bigint,
    height bigint,
    duration_ms bigint,
    PRIMARY KEY (id, bucket)
) PARTITION BY RANGE (id);

CREATE INDEX uploads_by_stage ON uploads (stage, id);
CREATE INDEX uploads_by_type ON uploads (content_type, id) WHERE content_type IS NOT NULL;

-- One partial index for each query of the sweeper.
CREATE INDEX uploads_unsettled ON uploads (id)
    WHERE stage IN ('verified', 'stored') OR (stage = 'received' AND role <> 'partial') OR (stage = 'created' AND role = 'final');
CREATE INDEX uploads_unsealed ON uploads (id) WHERE is_full;
CREATE INDEX uploads_expiring ON uploads (expires_about_ms)
    WHERE stage IN ('created', 'receiving', 'stalled') OR (stage = 'received' AND role = 'partial');
CREATE INDEX uploads_receiving ON uploads (changed_about_ms) WHERE stage = 'receiving';
CREATE INDEX uploads_removable ON uploads (id)
    WHERE bytes_kept AND (stage IN ('failed', 'expired', 'terminated') OR removed_at_ms IS NOT NULL);
CREATE INDEX uploads_ended ON uploads (changed_about_ms, id) WHERE NOT bytes_kept;
CREATE INDEX uploads_completed ON uploads (completed_at_ms) WHERE stage = 'completed' AND removed_at_ms IS NULL;
CREATE INDEX uploads_missing ON uploads (id) WHERE missing_since_ms IS NOT NULL;

-- Values that every checkpoint writes. The key is the only index, so that a checkpoint updates one page in place (HOT).
CREATE TABLE upload_progress (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    version bigint NOT NULL,
    epoch bigint NOT NULL,
    -- The epoch since which every takeover was clean.
    lease_generation bigint NOT NULL,
    holder uuid,
    commit_id uuid,
    received text NOT NULL,
    running_digests bytea NOT NULL,
    resume bytea,
    updated_at_ms bigint NOT NULL,
    expires_at_ms bigint,
    next_sequence bigint NOT NULL,
    last_progress_offset bigint NOT NULL,
    last_progress_at_ms bigint NOT NULL,
    PRIMARY KEY (id, bucket)
) PARTITION BY RANGE (id);

-- A copy of the metadata for searches. Pairs that are too long for an index are omitted.
CREATE TABLE upload_metadata (
    bucket smallint NOT NULL,
    key text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    upload_id uuid NOT NULL,
    PRIMARY KEY (key, value, upload_id, bucket)
) PARTITION BY RANGE (upload_id);

-- Append only. `position` consists of the transaction that wrote the event and the place within it: see src/log.rs.
CREATE TABLE events (
    bucket smallint NOT NULL,
    source_id uuid NOT NULL,
    sequence bigint NOT NULL,
    position bigint NOT NULL,
    id uuid NOT NULL,
    tenant bigint NOT NULL,
    upload_id uuid,
    kind text COLLATE "C" NOT NULL,
    occurred_at_ms bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (source_id, sequence, bucket)
) PARTITION BY RANGE (source_id);

CREATE INDEX events_by_position ON events (position);

-- One row. `base` is added to the number of a transaction, so that positions keep growing after the database was restored
-- on another server. Events at or before `removed_up_to` may have been removed.
CREATE TABLE log (base bigint NOT NULL, removed_up_to bigint NOT NULL);

CREATE TABLE endpoints (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    tenant bigint NOT NULL,
    origin text COLLATE "C" NOT NULL,
    -- False when no configuration names it any more; its deliveries wait until it is named again.
    present boolean NOT NULL,
    terms text NOT NULL,
    sealed bytea NOT NULL,
    state text COLLATE "C" NOT NULL,
    state_since_ms bigint,
    disabled_because text COLLATE "C",
    consecutive_failures bigint NOT NULL,
    failing_since_ms bigint,
    exhausted bigint NOT NULL,
    open_until_ms bigint,
    warned_percent bigint NOT NULL,
    version bigint NOT NULL,
    created_at_ms bigint NOT NULL,
    updated_at_ms bigint NOT NULL,
    -- The number of the latest job on its whole backlog; the generation of new deliveries.
    generation bigint NOT NULL DEFAULT 0,
    -- The time of its latest resumption, from which the age of deliveries queued earlier is counted.
    resumed_at_ms bigint
);

-- One row, incremented by every change of endpoint data that commits and claims cache.
-- `config_epoch` is the highest epoch of a configuration of endpoints.
CREATE TABLE endpoints_version (version bigint NOT NULL, config_epoch bigint NOT NULL DEFAULT 0);

-- One row: no upload before `uploads` has work left for the sweeper, and no delivery of a source before `deliveries` is
-- unfinished. Frequent statements name these bounds, so that the partitions of older days cost them nothing.
-- Every identifier before `past` lies in a row of past_days.
CREATE TABLE unfinished_from (uploads uuid NOT NULL, deliveries uuid NOT NULL, past uuid NOT NULL);

-- Days without unfinished uploads: the positions of their oldest and newest event, and their newest delivery. Reads of the
-- log and lists of deliveries look only at the past days with something new enough.
CREATE TABLE past_days (
    from_id uuid NOT NULL PRIMARY KEY,
    end_id uuid NOT NULL,
    oldest_position bigint NOT NULL,
    newest_position bigint NOT NULL,
    newest_delivery uuid NOT NULL
);

CREATE TABLE deliveries (
    bucket smallint NOT NULL,
    source_id uuid NOT NULL,
    id uuid NOT NULL,
    tenant bigint NOT NULL,
    event_position bigint NOT NULL,
    event_id uuid NOT NULL,
    kind text COLLATE "C" NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    upload_id uuid,
    sequence bigint NOT NULL,
    state text COLLATE "C" NOT NULL,
    trigger text COLLATE "C" NOT NULL,
    attempts bigint NOT NULL,
    attempts_before bigint NOT NULL,
    begun_at_ms bigint NOT NULL,
    next_at_ms bigint NOT NULL,
    lease uuid,
    lease_until_ms bigint,
    claimed_by uuid,
    created_at_ms bigint NOT NULL,
    finished_at_ms bigint,
    generation bigint NOT NULL,
    PRIMARY KEY (source_id, id, bucket)
) PARTITION BY RANGE (source_id);

CREATE INDEX deliveries_by_id ON deliveries (id);
CREATE INDEX deliveries_ready ON deliveries (endpoint, next_at_ms, sequence) WHERE state = 'ready';
CREATE INDEX deliveries_leased ON deliveries (endpoint, lease_until_ms) WHERE state = 'leased';
CREATE INDEX deliveries_waiting ON deliveries (endpoint, source_id, sequence) WHERE state = 'waiting';
CREATE INDEX deliveries_dead ON deliveries (id) WHERE state = 'dead';
-- Deliveries that may block later ones of the same endpoint and upload.
CREATE INDEX deliveries_unfinished ON deliveries (source_id, endpoint, sequence) WHERE finished_at_ms IS NULL;
CREATE INDEX deliveries_by_age ON deliveries (endpoint, begun_at_ms, id) WHERE state IN ('ready', 'waiting');

-- Append only.
CREATE TABLE attempts (
    bucket smallint NOT NULL,
    source_id uuid NOT NULL,
    delivery_id uuid NOT NULL,
    number bigint NOT NULL,
    started_at_ms bigint NOT NULL,
    took_us bigint NOT NULL,
    status bigint,
    error text,
    response_body bytea NOT NULL,
    note text,
    trigger text COLLATE "C" NOT NULL,
    dns_us bigint,
    connect_us bigint,
    first_byte_us bigint,
    remote text,
    response_headers text,
    next_at_ms bigint,
    PRIMARY KEY (source_id, delivery_id, number, started_at_ms, bucket)
) PARTITION BY RANGE (source_id);

-- Jobs that send many deliveries again, with their position in the log.
CREATE TABLE replay_jobs (
    id uuid NOT NULL PRIMARY KEY,
    tenant bigint NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    what text COLLATE "C" NOT NULL,
    from_ms bigint NOT NULL,
    before_ms bigint NOT NULL,
    state text COLLATE "C" NOT NULL,
    cursor bigint NOT NULL,
    queued bigint NOT NULL,
    created_at_ms bigint NOT NULL,
    finished_at_ms bigint
);

-- At most one job of each kind for an endpoint. Numbers are never reused: the number of a job is its generation.
CREATE TABLE backlog_jobs (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    endpoint text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    begun_at_ms bigint NOT NULL,
    -- The last upload that a job by lanes has processed.
    cursor uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    UNIQUE (endpoint, kind)
);

-- Calls of hooks before steps of uploads, with their verdicts. Append only.
CREATE TABLE hook_calls (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    hook text COLLATE "C" NOT NULL,
    upload_id uuid NOT NULL,
    tenant bigint NOT NULL,
    decision text NOT NULL,
    started_at_ms bigint NOT NULL,
    took_us bigint NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    status bigint,
    message text,
    response_body bytea NOT NULL,
    PRIMARY KEY (id, bucket)
);

CREATE INDEX hook_calls_by_upload ON hook_calls (upload_id, id);

-- Running processes of the program. A node without an end of its heartbeat counts as alive until it leaves.
CREATE TABLE nodes (
    instance uuid NOT NULL PRIMARY KEY,
    name text NOT NULL,
    alive_until timestamptz,
    -- When it closed all uploads and left. The row then stays for a while: a takeover from this node is clean.
    left_at timestamptz,
    role text COLLATE "C" NOT NULL,
    version text NOT NULL,
    -- The URL at which other nodes reach it.
    peer_url text,
    -- True while it hands over its work.
    draining boolean NOT NULL
);

-- The cluster that uses this database: at most one row.
CREATE TABLE cluster (
    singleton boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (singleton),
    name text NOT NULL,
    -- Fingerprints of the server keys of its nodes.
    keys text NOT NULL
);

-- One row: the history of transactions that the latest writers have used, as a server and its timeline. After
-- a failover that lost commits, epochs up to `(before + timeline) << 32` may have been given to writers that no row
-- knows of; later ones are higher.
CREATE TABLE lineage (system bigint NOT NULL, timeline bigint NOT NULL, before bigint NOT NULL);

-- The endpoints that the configuration of each node names.
CREATE TABLE node_endpoints (
    instance uuid NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    PRIMARY KEY (instance, endpoint)
);

-- Background work that one node does for all.
CREATE TABLE duties (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    instance uuid NOT NULL,
    until timestamptz NOT NULL
);

-- One row, updated to check that writes work.
CREATE TABLE health (checks bigint NOT NULL);

-- At most one row: the move of all records of another database into this one. Until it is finished, no server uses this
-- database, and `step` and `after` are the table and the key at which the move continues.
CREATE TABLE moves (
    id uuid NOT NULL,
    source text NOT NULL,
    step text COLLATE "C",
    after bytea NOT NULL,
    is_finished boolean NOT NULL
);

INSERT INTO log (base, removed_up_to) VALUES (0, 0);
INSERT INTO endpoints_version (version) VALUES (0);
INSERT INTO unfinished_from (uploads, deliveries, past)
    VALUES ('00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000',
        '00000000-0000-0000-0000-000000000000');
INSERT INTO lineage (system, timeline, before) VALUES (0, 0, 0);
INSERT INTO health (checks) VALUES (0);
