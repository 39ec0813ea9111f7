//! The actual content of the stores, compared with the promises. It reads the stores without any faults, like
//! an operator who looks at the disk of a server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::checksum::{Algorithm, Digest};
use domain::generation::Generation;
use domain::id::UploadId;
use domain::principal::TenantScope;
use domain::query::UploadQuery;
use domain::removal::{DeletedBy, Removal};
use domain::stage::{Ended, Stage};
use domain::time::Timestamp;
use domain::upload::{Role, StoredBytes as Kept, Upload};
use domain::write_rules::Completion;
use futures::FutureExt;
use state::memory::{MemoryDatabase, MemoryState};
use state::{EventLog, Uploads};
use storage::BlobKey;
use storage::memory::MemoryStore;

use crate::log;
use crate::model::{Known, Model, Promised, places};
use crate::script::{Content, Promise};

/// More than any run contains.
const ALL: u32 = 100_000;

/// The auditor, with the state that it found last time.
#[derive(Debug)]
pub struct Audit {
    records: Arc<MemoryState>,
    blobs: MemoryStore,
    /// The retention of the files of completed uploads; `None` means forever.
    keeps_files: Option<Duration>,
    before: BTreeMap<UploadId, Upload>,
}

impl Audit {
    pub fn new(memory: &MemoryDatabase, blobs: MemoryStore, keeps_files: Option<Duration>) -> Self {
        Self { records: memory.open(), blobs, keeps_files, before: BTreeMap::new() }
    }

    /// Returns all uploads, oldest first.
    pub fn rows(&self) -> Vec<Upload> {
        let query = UploadQuery { limit: ALL, ..UploadQuery::default() };
        let page = self.records.list(TenantScope::All, &query).now_or_never().expect("it never waits");
        let mut rows = page.expect("it is open").found;
        rows.reverse();
        rows
    }

    pub fn row(&self, id: UploadId) -> Option<Upload> {
        self.records.find(TenantScope::All, id).now_or_never().expect("it never waits").expect("it is open")
    }

    /// Returns the durable bytes of an upload, and whether they are at their final place.
    pub fn durable(&self, id: UploadId) -> Option<(bool, Bytes)> {
        let row = self.row(id)?;
        let generations = row.generations();
        if generations.is_single() {
            return self.blobs.durable(&key_of(id, generations.current()));
        }
        let reach = row.record().received.pairs().last().map_or(0, |(_, end)| *end);
        let mut bytes = Vec::new();
        for span in generations.spans(0, reach) {
            let (_, part) = self.blobs.durable(&key_of(id, span.generation))?;
            let count = usize::try_from(span.end - span.start).expect("files are small");
            bytes.extend_from_slice(&part[..count.min(part.len())]);
        }
        Some((false, bytes.into()))
    }

    /// Checks everything that has changed since the last time.
    pub fn look(&mut self, model: &mut Model) {
        for row in self.rows() {
            let before = self.before.get(&row.id());
            if before.is_some_and(|before| before.record().version == row.record().version) {
                // The record is committed before its bytes go.
                if row.stage() == Stage::Completed && row.owns_bytes() && self.durable(row.id()).is_none() {
                    let how = format!("{} is completed, and its bytes are gone", row.id());
                    model.breaks(Promised::CompleteIsComplete, how);
                }
                continue;
            }
            for (promise, how) in self.check_row(model, before, &row) {
                model.breaks(promise, how);
            }
            self.before.insert(row.id(), row);
        }
        for name in model.names() {
            if let Some(known) = model.get(name)
                && let Some((promise, how)) = self.check_told(known)
            {
                model.breaks(promise, how);
            }
        }
    }

    fn check_row(&self, model: &Model, before: Option<&Upload>, row: &Upload) -> Vec<(Promised, String)> {
        let known = model.by_id(row.id());
        let name = known.map_or_else(|| row.id().to_string(), |known| known.name.to_string());
        let mut broken = Vec::new();
        if let Some(before) = before {
            broken.extend(check_move(before, row, &name));
        }
        if let Stage::Ended(how) = row.stage() {
            broken.extend(check_end(before, row, known, how, &name));
            return broken;
        }
        let reach = row.record().received.pairs().last().map_or(0, |(_, end)| *end);
        if row.length().is_some_and(|length| length.get() < reach) {
            let how = format!("{name} has bytes up to {reach}, and a length of {:?}", row.length());
            broken.push((Promised::CompleteIsComplete, how));
        }
        if !row.stage().takes_bytes() && !row.is_full() {
            let how = format!("{name} is {} with {} of {:?}", row.stage().name(), row.offset().get(), row.length());
            broken.push((Promised::CompleteIsComplete, how));
        }
        match row.record().removed {
            Some(removal) => broken.extend(self.check_removal(removal, row, known, &name)),
            None => broken.extend(self.check_bytes(row, known, &name)),
        }
        broken
    }

    /// Checks that there was a reason to remove the file of an upload.
    fn check_removal(
        &self,
        removal: Removal,
        row: &Upload,
        known: Option<&Known>,
        name: &str,
    ) -> Option<(Promised, String)> {
        let has_reason = match removal.by {
            DeletedBy::Operator => known.is_none_or(|known| known.deleted),
            DeletedBy::Retention => {
                let kept = row.completed_at().map(|at| removal.at.since(at));
                self.keeps_files.is_some_and(|keeps| kept.is_some_and(|kept| kept > keeps))
            }
            DeletedBy::Client => false,
        };
        let how = format!("the file of {name} was removed by {} without a reason", removal.by.name());
        (!has_reason).then_some((Promised::EndsHaveAReason, how))
    }

    /// Checks that the bytes that a row counts are durable, and that a client sent them.
    fn check_bytes(&self, row: &Upload, known: Option<&Known>, name: &str) -> Option<(Promised, String)> {
        let pairs = row.record().received.pairs();
        let reach = pairs.last().map_or(0, |(_, end)| *end);
        let Some((finished, bytes)) = self.durable(row.id()) else {
            let how = format!("{name} counts bytes up to {reach}, and has no blob");
            let is_owed = reach > 0 || row.stage() == Stage::Completed;
            return is_owed.then_some((Promised::NothingAcknowledgedIsLost, how));
        };
        let stored = bytes.len() as u64;
        if row.stage() == Stage::Completed && (!finished || Some(stored) != row.length().map(|length| length.get())) {
            let how =
                format!("{name} is completed with a length of {:?}, and stored with {stored} bytes", row.length());
            return Some((Promised::CompleteIsComplete, how));
        }
        if stored < reach {
            let how = format!("{name} counts bytes up to {reach}, and {stored} are durable");
            return Some((Promised::NothingAcknowledgedIsLost, how));
        }
        if !row.stage().takes_bytes() {
            let crc = crc32c::crc32c(&bytes[places(0..reach)]);
            let digest = Digest::new(Algorithm::Crc32c, crc.to_be_bytes().to_vec()).expect("it has four bytes");
            if !row.record().digests.contains(&digest) {
                let digests = &row.record().digests;
                let how = format!("the CRC-32C of {name} is {}, the row says {digests:?}", digest.hex());
                return Some((Promised::DigestsAreRight, how));
            }
        }
        let known = known?;
        if let Some(joined) = &known.joined {
            let how = format!("{name} is not the concatenation of its parts");
            return (reach > 0 && joined[..] != bytes[..]).then_some((Promised::BytesAreThoseSent, how));
        }
        if matches!(row.record().role, Role::Final { .. }) {
            return None;
        }
        pairs.iter().find_map(|(start, end)| {
            let range = places(*start..*end);
            let counted = &bytes[range.clone()];
            let as_usual = known.file.bytes(Content::File)[range.clone()] == *counted
                && known.may[range.clone()].iter().all(|may| may.has(Content::File));
            if as_usual {
                return None;
            }
            let place = known.file.first_stranger(range.start, counted, &known.may)?;
            let ours = bytes[place];
            let theirs = known.file.bytes(Content::File)[place];
            let how = format!(
                "{name} has a byte {ours:#04x} at {place} that no client sent there (the file has {theirs:#04x}; possible contents: {:?})",
                known.may[place]
            );
            Some((Promised::BytesAreThoseSent, how))
        })
    }

    /// Checks that every answer to a client about an upload still holds.
    fn check_told(&self, known: &Known) -> Option<(Promised, String)> {
        let name = known.name;
        let Some(row) = self.before.get(&known.id) else {
            return Some((Promised::NothingAcknowledgedIsLost, format!("{name} was created, and does not exist")));
        };
        if matches!(row.stage(), Stage::Ended(_)) {
            return None;
        }
        if known.was_complete && row.stage() != Stage::Completed {
            let how = format!("{name} was reported as complete, and is {}", row.stage().name());
            return Some((Promised::CompleteIsComplete, how));
        }
        let received = &row.record().received;
        let lost = known.acked().pairs().iter().find(|(start, end)| !covers(received.pairs(), *start, *end))?;
        let how = format!("{name} was reported to have {} to {}, and has {:?}", lost.0, lost.1, received.pairs());
        Some((Promised::NothingAcknowledgedIsLost, how))
    }

    /// Checks the promises that hold when nothing is in progress any more.
    pub fn look_at_rest(&mut self, model: &mut Model) {
        self.look(model);
        let mut owned: Vec<BlobKey> = Vec::new();
        for row in self.rows() {
            let name = model.by_id(row.id()).map_or_else(|| row.id().to_string(), |known| known.name.to_string());
            let events =
                self.records.events_of(TenantScope::All, row.id(), 0, ALL).now_or_never().expect("it never waits");
            if let Some(how) = log::difference(row.record(), &events.expect("it is open")) {
                model.breaks(Promised::TheLogTellsAll, format!("{name}: {how}"));
            }
            match (row.owns_bytes(), row.record().bytes) {
                (false, Kept::Kept) => {
                    model.breaks(Promised::NothingLeaks, format!("{name} has ended, and its bytes are still stored"));
                }
                (false, Kept::Removed) => {}
                (true, _) => {
                    owned.extend(row.generations().all().map(|it| key_of(row.id(), it)));
                }
            }
        }
        for key in self.blobs.keys().iter().filter(|key| !owned.contains(key)) {
            model.breaks(Promised::NothingLeaks, format!("the blob {key} belongs to no upload"));
        }
    }
}

fn covers(pairs: &[(u64, u64)], start: u64, end: u64) -> bool {
    start >= end || pairs.iter().any(|(own_start, own_end)| *own_start <= start && end <= *own_end)
}

/// Checks that a row was allowed to change in this way.
fn check_move(before: &Upload, row: &Upload, name: &str) -> Option<(Promised, String)> {
    if let Stage::Ended(how) = before.stage()
        && row.stage() != Stage::Ended(how)
    {
        let how = format!("{name} had {}, and is {} now", how.past(), row.stage().name());
        return Some((Promised::EndsHaveAReason, how));
    }
    if before.record().removed.is_some()
        && (before.record().removed, before.stage()) != (row.record().removed, row.stage())
    {
        let how = format!("the file of {name} was removed, and it is {} now", row.stage().name());
        return Some((Promised::EndsHaveAReason, how));
    }
    let has_ended = matches!(row.stage(), Stage::Ended(_));
    if !before.stage().takes_bytes() && row.stage().takes_bytes() {
        let how = format!("{name} was {}, and is {} now", before.stage().name(), row.stage().name());
        return Some((Promised::CompleteIsComplete, how));
    }
    if before.length().is_some() && before.length() != row.length() {
        let how = format!("the length of {name} was {:?}, and is {:?} now", before.length(), row.length());
        return Some((Promised::NothingAcknowledgedIsLost, how));
    }
    let received = row.record().received.pairs();
    let lost = before.record().received.pairs().iter().find(|(start, end)| !covers(received, *start, *end));
    let (start, end) = lost.filter(|_| !has_ended)?;
    let how = format!("{name} had {start} to {end}, and has {received:?} now");
    Some((Promised::OffsetsNeverFall, how))
}

/// Checks that an upload had a reason to end.
fn check_end(
    before: Option<&Upload>,
    row: &Upload,
    known: Option<&Known>,
    how: Ended,
    name: &str,
) -> Option<(Promised, String)> {
    let why = match how {
        Ended::Terminated => {
            let was_asked_for = known.is_none_or(|known| known.cancelled || known.deleted);
            (!was_asked_for).then(|| format!("{name} was terminated without a request"))
        }
        Ended::Expired => check_expiry(before?, row, name),
        Ended::Failed => check_failure(row, known, name),
    };
    why.map(|why| (Promised::EndsHaveAReason, why))
}

fn check_expiry(before: &Upload, row: &Upload, name: &str) -> Option<String> {
    let finishes_itself = before.completion() == Completion::WhenFull && before.stage().takes_bytes();
    if finishes_itself && before.is_full() && before.received_bytes() > 0 {
        return Some(format!("{name} had all its bytes, and has expired"));
    }
    let at: Timestamp = row.record().timeline.last().map(|(_, at)| *at)?;
    let due = before.record().expires_at?;
    (at < due).then(|| format!("{name} has expired at {at}, but its expiry is {due}"))
}

fn check_failure(row: &Upload, known: Option<&Known>, name: &str) -> Option<String> {
    let code = row.record().failure.as_ref().map_or("", |failure| failure.code.as_str());
    let is_final = matches!(row.record().role, Role::Final { .. });
    let has_reason = match code {
        "digest-mismatch" => known.is_none_or(|known| known.plan.promise != Promise::None && known.deviates),
        "too-long" => known.is_none_or(|known| known.may_be_too_long),
        "concatenation-failed" => is_final,
        _ => false,
    };
    (!has_reason).then(|| format!("{name} has failed with {code:?} without a reason"))
}

/// Returns the key of a generation of an upload's bytes.
fn key_of(id: UploadId, generation: Generation) -> BlobKey {
    let first = format!("{}/{id}", id.made_at().day_path());
    let name = match generation {
        Generation::FIRST => first,
        Generation::Begun(epoch) => format!("{first}~{}", epoch.get()),
        Generation::Joined(epoch) => format!("{first}~joined-{}", epoch.get()),
    };
    BlobKey::new(name).expect("a day, an id and an epoch are a key")
}
