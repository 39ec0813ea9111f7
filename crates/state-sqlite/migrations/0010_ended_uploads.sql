-- Ended uploads without bytes, by the time of their last change: old ones are removed.
CREATE INDEX uploads_ended ON uploads (updated_at_ms)
    WHERE bytes_kept = 0 AND stage IN ('failed', 'expired', 'terminated');
