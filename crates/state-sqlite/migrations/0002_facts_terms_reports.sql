-- Terms and decisions of the application, reports of backends, and facts about the content of an upload.

ALTER TABLE uploads ADD COLUMN failure_status INTEGER;
ALTER TABLE uploads ADD COLUMN facts TEXT;
ALTER TABLE uploads ADD COLUMN accepted_at_ms INTEGER;
ALTER TABLE uploads ADD COLUMN reports TEXT;

ALTER TABLE upload_origins ADD COLUMN max_bytes INTEGER;
ALTER TABLE upload_origins ADD COLUMN expires_by_ms INTEGER;
