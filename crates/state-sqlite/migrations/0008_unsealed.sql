-- Open uploads with all their bytes: a single range from the first byte to the last. Uploads of dialects
-- whose clients complete them explicitly are included until that happens.
CREATE INDEX uploads_unsealed ON uploads (id)
    WHERE stage IN ('created', 'receiving', 'stalled') AND role <> 'final'
        AND (received = '[[0,' || length || ']]' OR (length = 0 AND received = '[]'));
