-- The name of the commit that wrote an upload last, so that whoever lost its answer knows it again.
ALTER TABLE uploads ADD COLUMN commit_id BLOB;
