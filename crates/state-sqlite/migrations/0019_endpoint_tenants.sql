-- The owner of each endpoint and each replay: the number of a tenant. Existing rows belong to the default
-- tenant.
ALTER TABLE endpoints ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
ALTER TABLE replay_jobs ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
