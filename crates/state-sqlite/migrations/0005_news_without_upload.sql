-- Whether news that is of no upload was delivered, asked when it is old.
CREATE INDEX deliveries_without_upload ON deliveries (event_position) WHERE upload_id IS NULL;
