//! Uploads: written through the writer, read by the readers.

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};
use state_rows::{Cell, OriginRow, UploadRow, sql};

use crate::events::UploadEvents;
use crate::leases::NOT_ELSEWHERE;
use crate::query::{SqlQuery, tenants};
use crate::rows::{PLACEHOLDERS, UPLOAD_COLUMNS, bound};
use crate::writer::{Work, WriteTransaction};
use crate::{SqliteStore, rows};
use domain::hook::HookCall;
use domain::id::UploadId;
use domain::log::{EventPage, EventPosition, LoggedEvent};
use domain::principal::TenantScope;
use domain::query::{HookCallQuery, UploadPage, UploadQuery};
use domain::upload::Upload;
use state::clock::Clock;
use state::{Change, Error, EventLog, HookCalls, NewEvent, Result, Store, SweepSelection, SweepShare, Uploads};

/// The largest metadata value that can be searched for, in bytes.
const MAX_INDEXED_BYTES: usize = 1024;

/// The time within which the store must show that it works.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

#[async_trait]
impl Uploads for SqliteStore {
    async fn insert(&self, new: Change) -> Result<Upload> {
        let (upload, events) = new.into_parts();
        let id = upload.id();
        let is_new = self.writer.write(InsertUpload::new(&upload, events)).await?;
        if is_new { Ok(upload.committed()) } else { Err(Error::Conflict(id)) }
    }

    async fn commit(&self, change: Change) -> Result<Upload> {
        let (upload, events) = change.into_parts();
        let id = upload.id();
        let is_unchanged = self.writer.write(CommitUpload::new(&upload, events)).await?;
        if is_unchanged { Ok(upload.committed()) } else { Err(Error::Conflict(id)) }
    }

    async fn find(&self, scope: TenantScope, id: UploadId) -> Result<Option<Upload>> {
        let (least, most) = tenants(scope);
        let found = self.readers.look_up("find an upload", move |connection| {
            connection.prepare_cached(&FIND)?.query_one(params![id.as_bytes(), least, most], rows::upload).optional()
        });
        found.await
    }

    async fn list(&self, scope: TenantScope, query: &UploadQuery) -> Result<UploadPage> {
        self.read_list(scope, query).await
    }

    async fn due(&self, selection: SweepSelection, share: SweepShare, skip: u32, limit: u32) -> Result<Vec<Upload>> {
        let found = self.readers.read("find uploads that are due", move |connection| {
            let (mut found, mut passed, mut wanted) = (Vec::new(), skip, limit);
            // Unreadable rows are replaced by further ones, so that only the last page is short.
            loop {
                let rows = due_query(selection, share, passed, wanted).fetch(connection, rows::one_of_uploads)?;
                let seen = u32::try_from(rows.len()).unwrap_or(wanted);
                found.extend(rows.into_iter().filter_map(|(_, upload)| upload));
                let is_last = seen < wanted;
                wanted = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(limit));
                if is_last || wanted == 0 {
                    return Ok(found);
                }
                passed = passed.saturating_add(seen);
            }
        });
        found.await
    }

    async fn count_missing(&self) -> Result<u64> {
        let counting =
            |connection: &mut Connection| connection.query_one(COUNT_MISSING, [], |row| row.get::<_, i64>(0));
        let count = self.readers.read("count uploads whose bytes are missing", counting).await?;
        Ok(count.unsigned_abs())
    }
}

#[async_trait]
impl EventLog for SqliteStore {
    async fn events_of(&self, scope: TenantScope, id: UploadId, after: u64, limit: u32) -> Result<Vec<LoggedEvent>> {
        self.read_events_of(scope, id, after, limit).await
    }

    async fn events_since(&self, scope: TenantScope, after: EventPosition, limit: u32) -> Result<EventPage> {
        self.read_events_since(scope, after, limit).await
    }

    async fn newest_event(&self) -> Result<EventPosition> {
        self.read_newest_event().await
    }

    async fn count_events_behind(&self, scope: TenantScope, after: EventPosition, most: u32) -> Result<Option<u32>> {
        self.read_count_behind(scope, after, most).await
    }
}

#[async_trait]
impl HookCalls for SqliteStore {
    async fn record_hook_call(&self, call: HookCall) -> Result<()> {
        self.write_hook_call(call).await
    }

    async fn hook_calls(&self, scope: TenantScope, query: &HookCallQuery) -> Result<Vec<HookCall>> {
        self.read_hook_calls(scope, query).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn check(&self) -> Result<()> {
        let check = async {
            self.writer.write(CheckWriting).await?;
            let read = |connection: &mut Connection| connection.query_one("SELECT checks FROM health", [], |_| Ok(()));
            self.readers.look_up(CheckWriting::OPERATION, read).await
        };
        let late = |error| Error::Failed { operation: CheckWriting::OPERATION, source: Box::new(error) };
        tokio::time::timeout(CHECK_TIMEOUT, check).await.map_err(late)?
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    async fn close(&self) {
        self.shut().await;
    }
}

pub(super) static FIND: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {} FROM uploads JOIN upload_origins USING (id) WHERE id = ?1 AND tenant BETWEEN ?2 AND ?3",
        *UPLOAD_COLUMNS
    )
});

/// Each statement names its partial index: if condition and index ever differ, the statement fails instead of
/// scanning the table.
fn due_query(selection: SweepSelection, share: SweepShare, skip: u32, limit: u32) -> SqlQuery {
    let mut sql = SqlQuery::new("SELECT ");
    sql.push(&UPLOAD_COLUMNS).push(" FROM uploads INDEXED BY ");
    let joined = " CROSS JOIN upload_origins USING (id) WHERE ";
    let oldest_first = match selection {
        SweepSelection::Unsettled => {
            sql.push("uploads_unsettled").push(joined).push(
                "(stage IN ('verified', 'stored') OR (stage = 'received' AND role <> 'partial')
                     OR (stage = 'created' AND role = 'final'))",
            );
            "id"
        }
        SweepSelection::Unsealed => {
            sql.push("uploads_unsealed").push(joined).push(
                "stage IN ('created', 'receiving', 'stalled') AND role <> 'final'
                     AND (received = '[[0,' || length || ']]' OR (length = 0 AND received = '[]'))
                     AND completion = 'when-full'",
            );
            "id"
        }
        SweepSelection::Expired { now } => {
            sql.push("uploads_expiring").push(joined).push(EXPIRES).push(" AND expires_at_ms <= ").bind(now.unix_ms());
            "expires_at_ms"
        }
        SweepSelection::Silent { since } => {
            sql.push("uploads_receiving").push(joined).push("stage = 'receiving' AND updated_at_ms < ");
            sql.bind(since.unix_ms());
            "updated_at_ms"
        }
        SweepSelection::Overlong { now, latest } => {
            sql.push("uploads_expiring").push(joined).push(EXPIRES).push(" AND expires_at_ms > ");
            sql.bind(latest.unix_ms()).push(" AND updated_at_ms > ").bind(now.unix_ms());
            "expires_at_ms"
        }
        SweepSelection::ChangedAfter { now } => {
            sql.push("uploads_receiving").push(joined).push("stage = 'receiving' AND updated_at_ms > ");
            sql.bind(now.unix_ms());
            "updated_at_ms"
        }
        SweepSelection::Removable => {
            sql.push("uploads_removable")
                .push(joined)
                .push("bytes_kept = 1 AND (stage IN ('failed', 'expired', 'terminated') OR removed_at_ms IS NOT NULL)");
            "id"
        }
        SweepSelection::Outdated { completed_before } => {
            sql.push("uploads_completed").push(joined);
            sql.push("stage = 'completed' AND removed_at_ms IS NULL AND json_extract(timeline, '$[#-1][1]') < ");
            sql.bind(completed_before.unix_ms());
            "json_extract(timeline, '$[#-1][1]')"
        }
    };
    match share {
        SweepShare::Own(node) => sql.push(" AND uploads.holder = ").bind(node.as_bytes().to_vec()),
        SweepShare::OwnAndFree(node) => sql.push(NOT_ELSEWHERE).bind(node.as_bytes().to_vec()).push(")"),
    };
    sql.push(" ORDER BY ").push(oldest_first);
    sql.push(" LIMIT ").bind(limit).push(" OFFSET ").bind(skip);
    sql
}

const COUNT_MISSING: &str =
    "SELECT count(*) FROM uploads INDEXED BY uploads_missing WHERE missing_since_ms IS NOT NULL";

/// The condition that an upload has an expiry.
const EXPIRES: &str = "(stage IN ('created', 'receiving', 'stalled') OR (stage = 'received' AND role = 'partial'))";

static INSERT: LazyLock<String> = LazyLock::new(|| sql::insert_new::<UploadRow>(PLACEHOLDERS));

static INSERT_ORIGIN: LazyLock<String> = LazyLock::new(|| sql::insert::<OriginRow>(PLACEHOLDERS));

static UPDATE: LazyLock<String> = LazyLock::new(|| {
    // The cells contain the version that the commit creates, and the epoch that was read.
    let [version, epoch] = ["version", "epoch"].map(|column| PLACEHOLDERS.of::<UploadRow>(column));
    sql::update::<UploadRow>(PLACEHOLDERS, &format!("version = {version} - 1 AND epoch = {epoch}"))
});

/// Writes a new upload, and returns true, if there is none with its identifier. An existing one is left
/// unchanged.
struct InsertUpload {
    upload: [Cell; UploadRow::COUNT],
    origin: [Cell; OriginRow::COUNT],
    id: UploadId,
    /// The metadata pairs that the upload can be found by.
    metadata: Vec<(String, Vec<u8>)>,
    events: UploadEvents,
}

impl InsertUpload {
    fn new(upload: &Upload, events: Vec<NewEvent>) -> Self {
        let record = upload.record();
        let pairs = record.metadata.pairs().iter();
        Self {
            upload: UploadRow::cells(record),
            origin: OriginRow::cells(record),
            id: upload.id(),
            metadata: pairs.filter(|(_, value)| value.len() <= MAX_INDEXED_BYTES).cloned().collect(),
            events: UploadEvents::of(upload, events),
        }
    }
}

impl Work for InsertUpload {
    const OPERATION: &'static str = "record a new upload";
    type Output = bool;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<bool> {
        let inserted = tx.execute(&INSERT, bound(&self.upload))?;
        if inserted == 0 {
            return Ok(false);
        }
        tx.execute(&INSERT_ORIGIN, bound(&self.origin))?;
        for (key, value) in &self.metadata {
            tx.execute(
                "INSERT INTO upload_metadata (key, value, upload_id) VALUES (?1, ?2, ?3)",
                params![key, value, self.id.as_bytes()],
            )?;
        }
        self.events.log(tx)?;
        Ok(true)
    }
}

/// Commits an upload, and returns true, if no commit was made since it was read. Otherwise nothing is
/// changed.
pub(super) struct CommitUpload {
    upload: [Cell; UploadRow::COUNT],
    events: UploadEvents,
    /// True if the bytes of the upload are to be deleted, or are deleted.
    frees_space: bool,
}

impl CommitUpload {
    fn new(upload: &Upload, events: Vec<NewEvent>) -> Self {
        let frees_space = !upload.owns_bytes();
        Self { upload: UploadRow::cells(upload.record()), events: UploadEvents::of(upload, events), frees_space }
    }

    /// Commits an upload without new events.
    pub(super) fn without_events(upload: &Upload) -> Self {
        Self::new(upload, Vec::new())
    }
}

impl Work for CommitUpload {
    const OPERATION: &'static str = "commit an upload";
    type Output = bool;

    fn frees_space(&self) -> bool {
        self.frees_space
    }

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<bool> {
        let updated = tx.execute(&UPDATE, bound(&self.upload))?;
        if updated == 0 {
            return Ok(false);
        }
        self.events.log(tx)?;
        Ok(true)
    }
}

struct CheckWriting;

impl Work for CheckWriting {
    const OPERATION: &'static str = "check the database";
    type Output = ();

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        tx.execute("UPDATE health SET checks = checks + 1", []).map(drop)
    }
}
