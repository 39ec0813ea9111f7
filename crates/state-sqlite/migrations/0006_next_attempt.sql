-- The time planned for the attempt after this one; NULL if none was planned.
ALTER TABLE attempts ADD COLUMN next_at_ms INTEGER;
