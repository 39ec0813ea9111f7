-- The blobs of an upload that was taken over where the storage lets nobody go on in the blob of another. NULL: one blob,
-- as ever.
ALTER TABLE uploads ADD COLUMN generations TEXT;
