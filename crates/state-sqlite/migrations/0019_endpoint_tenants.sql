-- Whose each endpoint and each replay is: the number of a tenant. What was written before is the default tenant's.
ALTER TABLE endpoints ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
ALTER TABLE replay_jobs ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
