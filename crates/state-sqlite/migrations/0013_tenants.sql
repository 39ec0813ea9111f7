-- The owner of each row: the number of a tenant. Existing rows belong to the default tenant.
ALTER TABLE uploads ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hook_calls ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
