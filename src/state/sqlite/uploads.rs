//! Uploads: written through the writer, read beside it.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;

use crate::domain::id::UploadId;
use crate::domain::upload::Record;
use crate::domain::upload::Upload;
use crate::state::Due;
use crate::state::Error;
use crate::state::EventPosition;
use crate::state::LoggedEvent;
use crate::state::Result;
use crate::state::UploadQuery;
use crate::state::UploadStore;
use crate::state::sqlite::SqliteStore;
use crate::state::sqlite::events;
use crate::state::sqlite::failed;
use crate::state::sqlite::rows;
use crate::state::sqlite::rows::SqliteQuery;
use crate::state::sqlite::writer::Desk;
use crate::state::sqlite::writer::Work;

/// The largest metadata value that can be searched for.
const MAX_INDEXED_BYTES: usize = 1024;

/// How long the store may take to show that it works.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

#[async_trait]
impl UploadStore for SqliteStore {
    async fn insert(&self, upload: Upload) -> Result<Upload> {
        let id = upload.id();
        self.writer.write(InsertUpload(upload)).await?.ok_or(Error::Conflict(id))
    }

    async fn commit(&self, upload: Upload) -> Result<Upload> {
        let id = upload.id();
        self.writer.write(CommitUpload(upload)).await?.ok_or(Error::Conflict(id))
    }

    async fn find(&self, id: UploadId) -> Result<Option<Upload>> {
        let query = sqlx::query("SELECT * FROM uploads JOIN upload_origins USING (id) WHERE id = ?1")
            .bind(id.as_bytes().to_vec());
        let found = self.read_all(query, rows::upload).await.map_err(failed("find an upload"))?;
        Ok(found.into_iter().next())
    }

    async fn list(&self, query: &UploadQuery) -> Result<Vec<Upload>> {
        self.read_list(query).await
    }

    async fn due(&self, question: Due, skip: u32, limit: u32) -> Result<Vec<Upload>> {
        self.read_all(due_query(question).bind(limit).bind(skip), rows::upload)
            .await
            .map_err(failed("find uploads that are due"))
    }

    async fn events_of(&self, id: UploadId, after: u64, limit: u32) -> Result<Vec<LoggedEvent>> {
        self.read_events_of(id, after, limit).await
    }

    async fn events_since(&self, after: EventPosition, limit: u32) -> Result<Vec<LoggedEvent>> {
        self.read_events_since(after, limit).await
    }

    async fn newest_event(&self) -> Result<EventPosition> {
        self.read_newest_event().await
    }

    async fn check(&self) -> Result<()> {
        let check = async {
            self.check_file(CheckWriting::OPERATION).await?;
            self.writer.write(CheckWriting).await?;
            let read = sqlx::query("SELECT checks FROM health").fetch_one(&self.reads).await;
            read.map(drop).map_err(failed(CheckWriting::OPERATION))
        };
        let late = |error| Error::Failed { operation: CheckWriting::OPERATION, source: Box::new(error) };
        tokio::time::timeout(CHECK_TIMEOUT, check).await.map_err(late)?
    }

    async fn close(&self) {
        self.shut().await;
    }
}

impl SqliteStore {
    pub(super) async fn read_all<T>(
        &self,
        query: SqliteQuery,
        read: fn(&SqliteRow) -> sqlx::Result<T>,
    ) -> sqlx::Result<Vec<T>> {
        query.fetch_all(&self.reads).await?.iter().map(read).collect()
    }
}

/// Each names its partial index: should condition and index ever differ, the statement fails instead of crawling.
fn due_query(question: Due) -> SqliteQuery {
    match question {
        Due::Unsettled => sqlx::query(
            "SELECT * FROM uploads INDEXED BY uploads_unsettled CROSS JOIN upload_origins USING (id)
             WHERE (stage IN ('verified', 'stored') OR (stage = 'received' AND role <> 'partial')
                 OR (stage = 'created' AND role = 'final'))
             ORDER BY id LIMIT ?1 OFFSET ?2",
        ),
        Due::Expired { now } => sqlx::query(
            "SELECT * FROM uploads INDEXED BY uploads_expiring CROSS JOIN upload_origins USING (id)
             WHERE (stage IN ('created', 'receiving', 'stalled') OR (stage = 'received' AND role = 'partial'))
                 AND expires_at_ms <= ?1
             ORDER BY expires_at_ms LIMIT ?2 OFFSET ?3",
        )
        .bind(now.unix_ms()),
        Due::Silent { since } => sqlx::query(
            "SELECT * FROM uploads INDEXED BY uploads_receiving CROSS JOIN upload_origins USING (id)
             WHERE stage = 'receiving' AND updated_at_ms < ?1
             ORDER BY updated_at_ms LIMIT ?2 OFFSET ?3",
        )
        .bind(since.unix_ms()),
        Due::Removable => sqlx::query(
            "SELECT * FROM uploads INDEXED BY uploads_removable CROSS JOIN upload_origins USING (id)
             WHERE bytes_kept = 1 AND stage IN ('failed', 'expired', 'terminated')
             ORDER BY id LIMIT ?1 OFFSET ?2",
        ),
    }
}

/// Gives back nothing when there is such an upload already.
struct InsertUpload(Upload);

#[async_trait]
impl Work for InsertUpload {
    const OPERATION: &'static str = "record a new upload";
    type Output = Option<Upload>;

    async fn run(self, desk: &mut Desk) -> sqlx::Result<Option<Upload>> {
        let record = self.0.record();
        let insert = sqlx::query(
            "INSERT INTO uploads (id, version, stage, role, length, received, wanted_digests, promised_digests,
                 running_digests, digests, resume, bytes_kept, timeline, failure_code, failure_message, created_at_ms,
                 updated_at_ms, expires_at_ms, next_sequence, last_progress_offset, last_progress_at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
             ON CONFLICT DO NOTHING",
        );
        let inserted = rows::bind_upload(insert, record).execute(&mut desk.connection).await?;
        if inserted.rows_affected() == 0 {
            return Ok(None);
        }
        let origin = sqlx::query(
            "INSERT INTO upload_origins (id, dialect, parts, parts_as_sent, metadata, metadata_as_sent)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        );
        rows::bind_origin(origin, record).execute(&mut desk.connection).await?;
        index_metadata(desk, record).await?;
        events::log_news(desk, &self.0).await?;
        Ok(Some(self.0.committed()))
    }
}

/// All pairs in one statement; in hexadecimal, because they may be any text and any bytes.
async fn index_metadata(desk: &mut Desk, record: &Record) -> sqlx::Result<()> {
    let found_by = record.metadata.pairs().iter().filter(|(_, value)| value.len() <= MAX_INDEXED_BYTES);
    let pairs: Vec<_> = found_by.map(|(name, value)| [rows::hex(name.as_bytes()), rows::hex(value)]).collect();
    if pairs.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO upload_metadata (key, value, upload_id)
         SELECT CAST(unhex(value ->> 0) AS TEXT), unhex(value ->> 1), ?1 FROM json_each(?2)",
    )
    .bind(record.id.as_bytes().to_vec())
    .bind(rows::json(&pairs))
    .execute(&mut desk.connection)
    .await
    .map(drop)
}

/// Gives back nothing when somebody has committed since the upload was read.
struct CommitUpload(Upload);

#[async_trait]
impl Work for CommitUpload {
    const OPERATION: &'static str = "commit an upload";
    type Output = Option<Upload>;

    async fn run(self, desk: &mut Desk) -> sqlx::Result<Option<Upload>> {
        let update = sqlx::query(
            "UPDATE uploads SET version = ?2, stage = ?3, role = ?4, length = ?5, received = ?6, wanted_digests = ?7,
                 promised_digests = ?8, running_digests = ?9, digests = ?10, resume = ?11, bytes_kept = ?12,
                 timeline = ?13, failure_code = ?14, failure_message = ?15, created_at_ms = ?16, updated_at_ms = ?17,
                 expires_at_ms = ?18, next_sequence = ?19, last_progress_offset = ?20, last_progress_at_ms = ?21
             WHERE id = ?1 AND version = ?2 - 1",
        );
        let updated = rows::bind_upload(update, self.0.record()).execute(&mut desk.connection).await?;
        if updated.rows_affected() == 0 {
            return Ok(None);
        }
        events::log_news(desk, &self.0).await?;
        Ok(Some(self.0.committed()))
    }
}

struct CheckWriting;

#[async_trait]
impl Work for CheckWriting {
    const OPERATION: &'static str = "check the database";
    type Output = ();

    async fn run(self, desk: &mut Desk) -> sqlx::Result<()> {
        desk.execute("UPDATE health SET checks = checks + 1").await
    }
}
