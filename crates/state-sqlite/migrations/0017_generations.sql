-- The blobs of an upload that was taken over on a storage that lets no node continue in the blob of another.
-- NULL: a single blob.
ALTER TABLE uploads ADD COLUMN generations TEXT;
