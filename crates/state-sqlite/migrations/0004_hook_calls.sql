-- The hook calls made before changes of uploads, and their results. Append only.
CREATE TABLE hook_calls (
    id BLOB NOT NULL PRIMARY KEY,
    hook TEXT NOT NULL,
    upload_id BLOB NOT NULL,
    decision TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    took_us INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER,
    message TEXT,
    response_body BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX hook_calls_by_upload ON hook_calls (upload_id, id);
