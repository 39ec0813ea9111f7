-- The removal of a completed upload's file, and the time since which bytes of an upload are known to be
-- missing.
ALTER TABLE uploads ADD COLUMN removed_at_ms INTEGER;
ALTER TABLE uploads ADD COLUMN removed_by TEXT;
ALTER TABLE uploads ADD COLUMN missing_since_ms INTEGER;

-- Uploads whose bytes are no longer needed and not deleted yet.
DROP INDEX uploads_removable;
CREATE INDEX uploads_removable ON uploads (id)
    WHERE bytes_kept = 1 AND (stage IN ('failed', 'expired', 'terminated') OR removed_at_ms IS NOT NULL);

-- Records without bytes, by the time of their last change: old ones are removed.
DROP INDEX uploads_ended;
CREATE INDEX uploads_ended ON uploads (updated_at_ms) WHERE bytes_kept = 0;

-- Completed uploads with their file, by the time of completion, which is the last entry of their timeline.
CREATE INDEX uploads_completed ON uploads (json_extract(timeline, '$[#-1][1]'))
    WHERE stage = 'completed' AND removed_at_ms IS NULL;

CREATE INDEX uploads_missing ON uploads (id) WHERE missing_since_ms IS NOT NULL;
