-- The identifier of the commit that last wrote an upload, so that a caller that lost its reply recognizes the
-- commit.
ALTER TABLE uploads ADD COLUMN commit_id BLOB;
