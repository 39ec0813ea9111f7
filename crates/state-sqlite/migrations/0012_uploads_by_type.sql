-- Uploads by the type of their content, which the facts know: lists are filtered by it.
CREATE INDEX uploads_by_type ON uploads (facts ->> '$.content_type', id) WHERE facts IS NOT NULL;
