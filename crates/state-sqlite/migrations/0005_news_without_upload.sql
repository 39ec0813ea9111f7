-- Deliveries of events that are not about an upload. The removal of old events checks for them.
CREATE INDEX deliveries_without_upload ON deliveries (event_position) WHERE upload_id IS NULL;
