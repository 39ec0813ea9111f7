-- The data of a node that the other nodes read.
ALTER TABLE nodes ADD COLUMN role TEXT NOT NULL DEFAULT 'all';
ALTER TABLE nodes ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN peer_url TEXT;
ALTER TABLE nodes ADD COLUMN draining INTEGER NOT NULL DEFAULT 0;
