-- The order in which the bytes of an upload arrive, and the condition of its completion, set at its creation.
-- They used to follow from the dialect.
ALTER TABLE upload_origins ADD COLUMN write_order TEXT NOT NULL DEFAULT 'in-order';
ALTER TABLE upload_origins ADD COLUMN completion TEXT NOT NULL DEFAULT 'when-full';
UPDATE upload_origins SET write_order = iif(dialect = 'ranged', 'any', write_order),
        completion = iif(dialect IN ('ietf', 'google'), 'when-said', completion)
    WHERE dialect IN ('ranged', 'ietf', 'google');
