-- Open uploads whose every byte is there: one range from the first to the last. Those of dialects whose clients say the
-- end are there too, for as long as nobody has said it.
CREATE INDEX uploads_unsealed ON uploads (id)
    WHERE stage IN ('created', 'receiving', 'stalled') AND role <> 'final'
        AND (received = '[[0,' || length || ']]' OR (length = 0 AND received = '[]'));
