-- In which order the bytes of an upload come and when it completes, as its creation said. Before, the dialect said it.
ALTER TABLE upload_origins ADD COLUMN write_order TEXT NOT NULL DEFAULT 'in-order';
ALTER TABLE upload_origins ADD COLUMN completion TEXT NOT NULL DEFAULT 'when-full';
UPDATE upload_origins SET write_order = 'any' WHERE dialect = 'ranged';
UPDATE upload_origins SET completion = 'when-said' WHERE dialect IN ('ietf', 'google');
