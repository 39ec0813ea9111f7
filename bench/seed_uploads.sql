-- Fills a Longshore database in PostgreSQL with upload records: many copies of the three it holds.
--
--   psql --set rows=COUNT --set days=DAYS --file seed_uploads.sql DATABASE
--
-- The database must hold a completed, a deleted and a started upload, created in this order, and the partitions of the
-- last DAYS days; no server may have it open. Each day gets the same number of copies: nine of ten completed, one
-- deleted; on the last day, eight completed, one deleted and one started. Each copy has its own identifier and time of
-- creation, the last event, and all other values of its original. Columns are read from the catalog, so a migration that
-- adds one needs no change here.

SET synchronous_commit = off;
SELECT set_config('seed.rows', :'rows', false), set_config('seed.days', :'days', false) \g /dev/null

CREATE TEMP TABLE copies (number bigint, id uuid, bucket smallint, original uuid, created_at_ms bigint, event_id uuid);

-- Returns a UUIDv7 with this time and these random digits.
CREATE FUNCTION pg_temp.uuid_of(ms bigint, random text) RETURNS uuid LANGUAGE sql AS
$$ SELECT (lpad(to_hex(ms), 12, '0') || '7' || substr(random, 1, 3) || '8' || substr(random, 4, 15))::uuid $$;

-- The rows of the originals, apart from the copies.
CREATE TEMP TABLE original_uploads AS SELECT * FROM uploads;
CREATE TEMP TABLE original_upload_progress AS SELECT * FROM upload_progress;
CREATE TEMP TABLE original_upload_metadata AS SELECT * FROM upload_metadata;
CREATE TEMP TABLE original_events AS
    SELECT DISTINCT ON (source_id) * FROM events WHERE upload_id IS NOT NULL ORDER BY source_id, sequence DESC;

-- Inserts the rows of each original again for each of its copies. `changed` has expressions for some of the columns.
CREATE FUNCTION pg_temp.copy_rows(name text, key text, changed jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    columns text;
    expressions text;
BEGIN
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum),
           string_agg(coalesce(changed ->> attname::text, 'old.' || quote_ident(attname)), ', ' ORDER BY attnum)
        INTO columns, expressions
        FROM pg_attribute WHERE attrelid = name::regclass AND attnum > 0 AND NOT attisdropped;
    EXECUTE format('INSERT INTO %I (%s) SELECT %s FROM copies JOIN %I AS old ON old.%I = copies.original
                    ORDER BY copies.number', name, columns, expressions, 'original_' || name, key);
END $$;

DO $$
DECLARE
    day_ms CONSTANT bigint := 86400000;
    days CONSTANT bigint := current_setting('seed.days')::bigint;
    each CONSTANT bigint := current_setting('seed.rows')::bigint / days;
    now_ms CONSTANT bigint := (extract(epoch FROM now()) * 1000)::bigint;
    originals uuid[];
    offset_of_log bigint;
BEGIN
    SELECT array_agg(id ORDER BY id) INTO originals FROM original_uploads;
    SELECT base INTO offset_of_log FROM log;
    FOR day IN REVERSE days - 1 .. 0 LOOP
        TRUNCATE copies;
        INSERT INTO copies
            SELECT number, id, ('x' || right(id::text, 4))::bit(16)::int % 64, original, created, pg_temp.uuid_of(created, other)
            FROM (
                SELECT number, created, md5(random()::text) AS other, pg_temp.uuid_of(created, md5(random()::text)) AS id,
                       originals[CASE WHEN number % 10 = 1 THEN 2 WHEN number % 10 = 2 AND day = 0 THEN 3 ELSE 1 END] AS original
                FROM generate_series(1, each) AS number,
                     LATERAL (SELECT now_ms - (day + 1) * day_ms + day_ms * number / each - 1 AS created) AS times
            ) AS made;
        PERFORM pg_temp.copy_rows('uploads', 'id', '{"id": "copies.id", "bucket": "copies.bucket",
            "created_at_ms": "copies.created_at_ms"}');
        PERFORM pg_temp.copy_rows('upload_progress', 'id', '{"id": "copies.id", "bucket": "copies.bucket",
            "holder": "NULL"}');
        PERFORM pg_temp.copy_rows('upload_metadata', 'upload_id', '{"upload_id": "copies.id",
            "bucket": "copies.bucket"}');
        PERFORM pg_temp.copy_rows('events', 'source_id', jsonb_build_object(
            'source_id', 'copies.id', 'upload_id', 'copies.id', 'bucket', 'copies.bucket', 'id', 'copies.event_id',
            'position', format('((pg_current_xact_id()::text::bigint + %s) << 20 | copies.number)', offset_of_log),
            'body', 'replace(old.body, copies.original::text, copies.id::text)'));
        COMMIT;
    END LOOP;
END $$;

VACUUM (ANALYZE);
