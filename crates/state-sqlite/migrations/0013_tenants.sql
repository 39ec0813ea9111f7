-- Whose each fact is: the number of a tenant. What was written before is the default tenant's.
ALTER TABLE uploads ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hook_calls ADD COLUMN tenant INTEGER NOT NULL DEFAULT 0;
