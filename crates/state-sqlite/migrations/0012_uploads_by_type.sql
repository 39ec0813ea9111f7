-- Uploads by the type of their content, as in the facts: lists are filtered by it.
CREATE INDEX uploads_by_type ON uploads (facts ->> '$.content_type', id) WHERE facts IS NOT NULL;
