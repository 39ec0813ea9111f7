-- When the attempt after this one was planned for; null where there was to be none.
ALTER TABLE attempts ADD COLUMN next_at_ms INTEGER;
