-- The epoch since which every takeover was clean: its holder may continue in the blob begun in that epoch.
ALTER TABLE uploads ADD COLUMN lease_generation INTEGER NOT NULL DEFAULT 1;
-- When a node closed all its uploads and left. NULL: it is at work, or has died.
ALTER TABLE nodes ADD COLUMN left_at_ms INTEGER;
