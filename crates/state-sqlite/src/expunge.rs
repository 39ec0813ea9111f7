//! Removal of free text about an upload on request: from its client, in its metadata; from receivers and the
//! application, whose responses may repeat the metadata; from backends, in their reports.
//!
//! Events lose the text at once. The record loses it once the upload has completed or ended: until then its
//! client reads its metadata back, and further events carry it. Kinds and times of events, sizes, digests and
//! media facts are kept.

use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, params};

use crate::query::tenants;
use crate::rows::Columns;
use crate::uploads::{CommitUpload, FIND};
use crate::writer::{Work, WriteTransaction};
use crate::{SqliteStore, rows};
use domain::event::EventKind;
use domain::id::UploadId;
use domain::principal::TenantScope;
use domain::time::Timestamp;
use state::{Result, StoredEvent};

/// The number of events rewritten in one transaction; their bodies may have 20 kB each.
const EVENTS: u32 = 100;

impl SqliteStore {
    pub(super) async fn expunge_in_pieces(&self, scope: TenantScope, upload: UploadId) -> Result<u64> {
        let (mut total, mut after) = (0, i64::MIN);
        loop {
            let (count, last) = self.writer.write(Expunge { scope, upload, after }).await?;
            let Some(last) = last else { return Ok(total) };
            (total, after) = (total + count, last);
        }
    }
}

/// Expunges the next events of an upload, those with a sequence above `after`. The last call also expunges
/// hook calls and the record.
struct Expunge {
    scope: TenantScope,
    upload: UploadId,
    after: i64,
}

impl Work for Expunge {
    const OPERATION: &'static str = "remove the metadata and texts of an upload from its events";
    /// The number of events, and the sequence of the last. `None` when none is left.
    type Output = (u64, Option<i64>);

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<Self::Output> {
        tx.overwriting(|tx| {
            let (count, last) = self.expunge_events(tx)?;
            if last.is_none() {
                self.expunge_hook_calls(tx)?;
                self.expunge_record(tx)?;
            }
            Ok((count, last))
        })
    }
}

impl Expunge {
    fn expunge_events(&self, tx: &WriteTransaction) -> rusqlite::Result<(u64, Option<i64>)> {
        let event = |row: &Row<'_>| {
            let mut columns = Columns::of(row);
            Ok((columns.next::<i64>()?, columns.next::<i64>()?, columns.next()?, columns.next()?))
        };
        let (least, most) = tenants(self.scope);
        let events: Vec<(i64, i64, EventKind, Timestamp)> = tx
            .connection
            .prepare_cached(
                "SELECT position, sequence, kind, occurred_at_ms FROM events
                 WHERE upload_id = ?1 AND sequence > ?2 AND tenant BETWEEN ?4 AND ?5 ORDER BY sequence LIMIT ?3",
            )?
            .query_map(params![self.upload.as_bytes(), self.after, EVENTS, least, most], event)?
            .collect::<rusqlite::Result<_>>()?;
        let mut bodies = tx.connection.prepare_cached("SELECT body FROM events WHERE position = ?1")?;
        for (position, sequence, kind, at) in &events {
            let full: Bytes = bodies.query_one([position], |row| Columns::of(row).next())?;
            let numbered = u64::try_from(*sequence).unwrap_or_default();
            let event = StoredEvent { kind: *kind, at: *at, upload: self.upload, sequence: numbered, body: &full };
            let body = (tx.bodies.expunged)(&event);
            tx.execute("UPDATE events SET body = ?2 WHERE position = ?1", params![position, body])?;
            tx.execute(
                "UPDATE attempts SET response_body = x'', response_headers = NULL, note = NULL
                 WHERE delivery_id IN (SELECT id FROM deliveries WHERE upload_id = ?1 AND event_position = ?2)",
                params![self.upload.as_bytes(), position],
            )?;
        }
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        Ok((count, events.last().map(|(_, sequence, ..)| *sequence)))
    }

    fn expunge_hook_calls(&self, tx: &WriteTransaction) -> rusqlite::Result<()> {
        let (least, most) = tenants(self.scope);
        tx.execute(
            "UPDATE hook_calls SET message = NULL, response_body = x''
             WHERE upload_id = ?1 AND tenant BETWEEN ?2 AND ?3",
            params![self.upload.as_bytes(), least, most],
        )
        .map(drop)
    }

    fn expunge_record(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        let (least, most) = tenants(self.scope);
        let wanted = params![self.upload.as_bytes(), least, most];
        let found = tx.connection.prepare_cached(&FIND)?.query_one(wanted, rows::upload).optional()?;
        let Some(mut upload) = found.filter(|upload| upload.is_settled()) else { return Ok(()) };
        for (key, value) in upload.record().metadata.pairs() {
            let values = params![key, value, self.upload.as_bytes()];
            tx.execute("DELETE FROM upload_metadata WHERE key = ?1 AND value = ?2 AND upload_id = ?3", values)?;
        }
        tx.execute(
            "UPDATE upload_origins SET metadata = '[]', metadata_as_sent = NULL WHERE id = ?1",
            [self.upload.as_bytes()],
        )?;
        upload.expunge();
        // The version moves, so that no commit based on an earlier read of the record publishes an event with
        // the removed text.
        CommitUpload::without_events(&upload).run(tx).map(drop)
    }
}
