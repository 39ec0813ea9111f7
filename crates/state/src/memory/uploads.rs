//! Uploads, with a check of the version in every commit.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::memory::MemoryState;
use crate::{Change, Error, EventLog, HookCalls, NewEvent, Result, Store, SweepSelection, SweepShare, Uploads};
use domain::facts::Facts;
use domain::hook::HookCall;
use domain::id::UploadId;
use domain::log::{EventPage, EventPosition, LoggedEvent};
use domain::principal::TenantScope;
use domain::query::{HookCallQuery, UploadPage, UploadQuery};
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::{Record, Role, StoredBytes, Upload};

/// The largest metadata value that can be searched for, in bytes.
const MAX_INDEXED_BYTES: usize = 1024;

#[async_trait]
impl Uploads for MemoryState {
    async fn insert(&self, new: Change) -> Result<Upload> {
        let (upload, events) = new.into_parts();
        self.write("record a new upload", |tables| match tables.uploads.get(&upload.id()) {
            Some(_) => Err(Error::Conflict(upload.id())),
            None => Ok(tables.put(upload, events)),
        })?
    }

    async fn commit(&self, change: Change) -> Result<Upload> {
        let (upload, events) = change.into_parts();
        self.write("commit an upload", |tables| {
            let read = |record: &Record| (record.version, record.lease.epoch);
            if tables.uploads.get(&upload.id()).map(read) != Some(read(upload.record())) {
                return Err(Error::Conflict(upload.id()));
            }
            Ok(tables.put(upload, events))
        })?
    }

    async fn find(&self, scope: TenantScope, id: UploadId) -> Result<Option<Upload>> {
        Ok(self
            .read("find an upload")?
            .uploads
            .get(&id)
            .filter(|record| scope.covers(record.tenant))
            .cloned()
            .map(Upload::from_record))
    }

    async fn list(&self, scope: TenantScope, query: &UploadQuery) -> Result<UploadPage> {
        let tables = self.read("list uploads")?;
        let newest_first =
            tables.uploads.values().rev().filter(|record| scope.covers(record.tenant) && is_wanted(record, query));
        let found = page(newest_first, 0, query.limit);
        let is_full = found.len() as u64 == u64::from(query.limit);
        let next = found.last().map(Upload::id).filter(|_| is_full);
        Ok(UploadPage { found, next })
    }

    async fn due(&self, selection: SweepSelection, share: SweepShare, skip: u32, limit: u32) -> Result<Vec<Upload>> {
        let tables = self.read("find uploads that are due")?;
        let is_in_share = |record: &Record| match share {
            SweepShare::Own(node) => record.lease.is_of(node),
            SweepShare::OwnAndFree(node) => !tables.is_elsewhere(record.lease, node),
        };
        let is_wanted = |record: &&Record| is_due(record, selection) && is_in_share(record);
        let mut due: Vec<&Record> = tables.uploads.values().filter(is_wanted).collect();
        match selection {
            SweepSelection::Expired { .. } | SweepSelection::Overlong { .. } => {
                due.sort_by_key(|record| record.expires_at)
            }
            SweepSelection::Silent { .. } | SweepSelection::ChangedAfter { .. } => {
                due.sort_by_key(|record| record.updated_at)
            }
            SweepSelection::Outdated { .. } => due.sort_by_key(|record| completed_at(record)),
            SweepSelection::Unsettled | SweepSelection::Unsealed | SweepSelection::Removable => {}
        }
        Ok(page(due.into_iter(), skip, limit))
    }

    async fn count_missing(&self) -> Result<u64> {
        let tables = self.read("count uploads whose bytes are missing")?;
        Ok(tables.uploads.values().filter(|record| record.missing_since.is_some()).count() as u64)
    }
}

#[async_trait]
impl EventLog for MemoryState {
    async fn events_of(&self, scope: TenantScope, id: UploadId, after: u64, limit: u32) -> Result<Vec<LoggedEvent>> {
        Ok(self.read("read the events of an upload")?.events_of(scope, id, after, limit))
    }

    async fn events_since(&self, scope: TenantScope, after: EventPosition, limit: u32) -> Result<EventPage> {
        Ok(self.read("read the log of events")?.events_since(scope, after, limit))
    }

    async fn newest_event(&self) -> Result<EventPosition> {
        Ok(self.read("read the position of the newest event")?.newest_event())
    }

    async fn count_events_behind(&self, scope: TenantScope, after: EventPosition, most: u32) -> Result<Option<u32>> {
        Ok(self.read("count the events after a position")?.count_behind(scope, after, most))
    }
}

#[async_trait]
impl HookCalls for MemoryState {
    async fn record_hook_call(&self, call: HookCall) -> Result<()> {
        self.write("record a hook call", |tables| {
            tables.hook_calls.entry(call.id).or_insert(call);
        })
    }

    async fn hook_calls(&self, scope: TenantScope, query: &HookCallQuery) -> Result<Vec<HookCall>> {
        Ok(self.read("list hook calls")?.newest_hook_calls(scope, query))
    }
}

#[async_trait]
impl Store for MemoryState {
    async fn check(&self) -> Result<()> {
        self.write("check the state", |_| ())
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}

impl super::Tables {
    /// Writes an upload and its new events.
    pub(super) fn put(&mut self, upload: Upload, events: Vec<NewEvent>) -> Upload {
        self.append_events(&upload, events);
        let committed = upload.committed();
        self.uploads.insert(committed.id(), committed.record().clone());
        committed
    }
}

fn page<'a>(records: impl Iterator<Item = &'a Record>, skip: u32, limit: u32) -> Vec<Upload> {
    let [skip, limit] = [skip, limit].map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    records.skip(skip).take(limit).cloned().map(Upload::from_record).collect()
}

fn is_wanted(record: &Record, query: &UploadQuery) -> bool {
    let has = |(name, value): &(String, Vec<u8>)| {
        value.len() <= MAX_INDEXED_BYTES
            && record.metadata.pairs().iter().any(|(own_name, own_value)| own_name == name && own_value == value)
    };
    (query.stages.is_empty() || query.stages.contains(&record.stage))
        && query.created_from.is_none_or(|from| record.created_at >= from)
        && query.created_before.is_none_or(|before| record.created_at < before)
        && query.before.is_none_or(|before| Reverse(record.id) > Reverse(before))
        && query.metadata.iter().all(has)
        && has_facts(record, query)
}

fn has_facts(record: &Record, query: &UploadQuery) -> bool {
    let (width, height) = record.facts.as_ref().map_or((None, None), Facts::size);
    let is_of_type = |facts: &Facts| query.types.iter().any(|pattern| pattern.fits(&facts.content_type));
    (query.types.is_empty() || record.facts.as_ref().is_some_and(is_of_type))
        && query.width.contain(width.map(u64::from))
        && query.height.contain(height.map(u64::from))
        && query.duration_ms.contain(record.facts.as_ref().and_then(Facts::duration_ms))
}

fn expires(record: &Record) -> bool {
    record.stage.takes_bytes() || (record.stage == Stage::Received && record.role == Role::Partial)
}

fn completed_at(record: &Record) -> Option<Timestamp> {
    record.timeline.last().filter(|(stage, _)| *stage == Stage::Completed).map(|(_, at)| *at)
}

fn is_due(record: &Record, selection: SweepSelection) -> bool {
    let is_partial = record.role == Role::Partial;
    match selection {
        SweepSelection::Unsettled => match record.stage {
            Stage::Verified | Stage::Stored => true,
            Stage::Received => !is_partial,
            Stage::Created => matches!(record.role, Role::Final { .. }),
            Stage::Receiving | Stage::Stalled | Stage::Completed | Stage::Ended(_) => false,
        },
        SweepSelection::Unsealed => Upload::from_record(record.clone()).awaits_seal(),
        SweepSelection::Expired { now } => expires(record) && record.expires_at.is_some_and(|at| at <= now),
        SweepSelection::Overlong { now, latest } => {
            expires(record) && record.updated_at > now && record.expires_at.is_some_and(|at| at > latest)
        }
        SweepSelection::ChangedAfter { now } => record.stage == Stage::Receiving && record.updated_at > now,
        SweepSelection::Silent { since } => record.stage == Stage::Receiving && record.updated_at < since,
        SweepSelection::Removable => {
            let is_over = matches!(record.stage, Stage::Ended(_)) || record.removed.is_some();
            is_over && record.bytes == StoredBytes::Kept
        }
        SweepSelection::Outdated { completed_before } => {
            let has_file = record.stage == Stage::Completed && record.removed.is_none();
            has_file && completed_at(record).is_some_and(|at| at < completed_before)
        }
    }
}
