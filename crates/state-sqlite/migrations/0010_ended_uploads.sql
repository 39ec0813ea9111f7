-- Ended uploads without bytes, by when they were last changed: old ones are removed.
CREATE INDEX uploads_ended ON uploads (updated_at_ms)
    WHERE bytes_kept = 0 AND stage IN ('failed', 'expired', 'terminated');
