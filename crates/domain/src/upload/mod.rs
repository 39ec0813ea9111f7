//! One upload: its stages and every legal transition between them.
//!
//! ```text
//!             first byte      all bytes      digests, facts   at its final place
//!  created ──► receiving ──► received ──► verified ──► stored ──► completed
//!     │            │  ▲           │           │           │           │
//!     │            ▼  │           └───────────┴───────────┴──► failed │
//!     │         stalled                                               │
//!     └────────────┴──► expired · terminated ◄────────────────────────┘ (terminated only)
//! ```
//!
//! A transition changes the upload and adds the event that reports it; the state store writes both in one
//! transaction. `failed`, `expired` and `terminated` are terminal: nothing follows them. `completed` is the
//! last stage of the server's own work; backends may then process the upload, and it may be deleted. An
//! upload whose file retention or an operator has removed stays `completed`; it cannot be deleted again. The
//! last stage of a partial upload (tus concatenation) is `received`; it is material for a final upload. From
//! `received` on, backends may report processing stages; these do not change the stage of the upload.

mod deletion;
mod record;
mod reports;
mod requests;
#[cfg(test)]
mod tests;

pub use record::{
    DurableBytes, InconsistentChange, NewUpload, PendingDeclarations, ProgressPolicy, Record, ReportOutcome, Role,
    StoredBytes, UploadTerms,
};

use crate::checksum::{Algorithm, Digest};
use crate::dialect::Dialect;
use crate::event::{Details, Event, EventKind};
use crate::facts::Facts;
use crate::failure::Failure;
use crate::generation::Generations;
use crate::id::{CommitId, InstanceId, UploadId};
use crate::metadata::Metadata;
use crate::node::{Handover, Lease};
use crate::principal::TenantId;
use crate::ranges::ReceivedRanges;
use crate::rejection::Rejection;
use crate::size::{Length, Offset};
use crate::stage::{Ended, Stage};
use crate::time::Timestamp;
use crate::write_rules::{Completion, WriteOrder};

/// The maximum number of timeline entries. An upload that stalls repeatedly loses its oldest stalls.
const MAX_TIMELINE: usize = 64;

/// An upload with the events of its latest transitions that no commit has written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    record: Record,
    events: Vec<Event>,
    /// The time at which its `expires_at` was set.
    term_began_at: Timestamp,
    /// True if its bytes were known to be missing at the last commit.
    was_missing: bool,
}

impl Upload {
    /// Creates an upload. An upload of length zero has all its bytes; the caller seals it at once.
    pub fn create(new: NewUpload, now: Timestamp) -> Self {
        let record = Record {
            id: new.id,
            version: 0,
            commit_id: None,
            tenant: new.tenant,
            lease: Lease::NONE,
            dialect: new.dialect,
            write_rules: new.write_rules,
            role: new.role,
            stage: Stage::Created,
            received: ReceivedRanges::default(),
            length: new.length,
            metadata: new.metadata,
            metadata_as_sent: new.metadata_as_sent,
            terms: new.terms,
            wanted_digests: new.wanted_digests,
            promised_digests: new.promised_digests,
            running_digests: Vec::new(),
            digests: Vec::new(),
            facts: None,
            accepted_at: None,
            reports: Vec::new(),
            resume: None,
            generations: Generations::default(),
            bytes: StoredBytes::Kept,
            removed: None,
            missing_since: None,
            timeline: Vec::new(),
            failure: None,
            created_at: now,
            updated_at: now,
            expires_at: None,
            next_sequence: 1,
            last_progress: (Offset::ZERO, now),
        };
        let mut upload = Self { record, events: Vec::new(), term_began_at: now, was_missing: false };
        upload.set_expiry(new.expires_at, now);
        upload.enter(Stage::Created, EventKind::Created, now);
        upload
    }

    /// Restores an upload from its stored record.
    pub fn from_record(record: Record) -> Self {
        let (term_began_at, was_missing) = (record.updated_at, record.missing_since.is_some());
        Self { record, events: Vec::new(), term_began_at, was_missing }
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    pub fn id(&self) -> UploadId {
        self.record.id
    }

    /// Returns the tenant that owns the upload.
    pub fn tenant(&self) -> TenantId {
        self.record.tenant
    }

    pub fn stage(&self) -> Stage {
        self.record.stage
    }

    pub fn dialect(&self) -> Dialect {
        self.record.dialect
    }

    /// Returns the order in which its bytes arrive.
    pub fn write_order(&self) -> WriteOrder {
        self.record.write_rules.order
    }

    /// Returns the blobs that hold its bytes.
    pub fn generations(&self) -> &Generations {
        &self.record.generations
    }

    /// Returns the condition under which it completes.
    pub fn completion(&self) -> Completion {
        self.record.write_rules.completion
    }

    pub fn length(&self) -> Option<Length> {
        self.record.length
    }

    /// Sets the identifier of the commit that will write it next.
    pub fn set_commit_id(&mut self, commit: CommitId) {
        self.record.commit_id = Some(commit);
    }

    /// Assigns it to a node, which runs its writer from the first commit on.
    pub fn assign_to(&mut self, node: InstanceId) {
        self.record.lease = self.record.lease.taken_by(node, Handover::Clean);
    }

    /// Returns the number of leading bytes that are durable without a gap.
    pub fn offset(&self) -> Offset {
        self.record.received.contiguous()
    }

    /// Returns the end of the last durable byte.
    pub fn reach(&self) -> Offset {
        self.record.received.end()
    }

    /// Returns the number of durable bytes, including those behind gaps.
    pub fn received_bytes(&self) -> u64 {
        self.record.received.total_bytes()
    }

    pub fn is_partial(&self) -> bool {
        matches!(self.record.role, Role::Partial)
    }

    pub fn is_final(&self) -> bool {
        matches!(self.record.role, Role::Final { .. })
    }

    /// Reports whether the length is known, every byte is present, and none is beyond it.
    pub fn is_full(&self) -> bool {
        self.record.length.is_some_and(|length| length.get() == self.offset().get())
    }

    /// Reports whether it is to be sealed without a further request from its client.
    pub fn awaits_seal(&self) -> bool {
        let completes = self.completion() == Completion::WhenFull && !self.is_final();
        completes && self.record.stage.takes_bytes() && self.is_full()
    }

    /// Reports whether no automatic step is left: it has completed or ended, or it is a partial upload with
    /// all its bytes.
    pub fn is_settled(&self) -> bool {
        match self.record.stage {
            Stage::Created | Stage::Receiving | Stage::Stalled | Stage::Verified | Stage::Stored => false,
            Stage::Received => self.is_partial(),
            Stage::Completed | Stage::Ended(_) => true,
        }
    }

    /// Reports whether every byte is present and the remaining steps are in progress.
    pub fn is_settling(&self) -> bool {
        !self.record.stage.takes_bytes() && !self.is_settled()
    }

    /// Reports whether its expiry has passed, even if that is not recorded yet.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        let expires = self.record.stage.takes_bytes() || (self.record.stage == Stage::Received && self.is_partial());
        expires && self.record.expires_at.is_some_and(|at| at <= now)
    }

    /// Reports whether the expiry set by the application has passed; arriving bytes do not extend it.
    pub fn is_past_set_expiry(&self, now: Timestamp) -> bool {
        self.record.stage.takes_bytes() && self.record.terms.expires_by.is_some_and(|by| by <= now)
    }

    /// Returns the maximum size of this upload, given the server-wide maximum `max_bytes`.
    pub fn most_bytes(&self, max_bytes: u64) -> u64 {
        self.record.terms.max_bytes.map_or(max_bytes, |own| own.min(max_bytes))
    }

    /// Returns the rejection for every request about an upload that has ended or whose file was removed. A
    /// rejected upload returns the reason for the rejection.
    pub fn ended(&self) -> Option<Rejection> {
        let Stage::Ended(how) = self.record.stage else {
            return self.record.removed.map(|_| Rejection::Removed);
        };
        let rejection = self.record.failure.as_ref().filter(|failure| failure.rejection.is_some());
        Some(rejection.map_or(Rejection::Gone(how), |failure| Rejection::Refused(failure.clone())))
    }

    /// Returns the same rejection, also for an upload whose expiry is not recorded yet and for one whose
    /// bytes are missing.
    pub fn gone(&self, now: Timestamp) -> Option<Rejection> {
        self.ended()
            .or_else(|| self.is_expired(now).then_some(Rejection::Gone(Ended::Expired)))
            .or_else(|| self.record.missing_since.map(|_| Rejection::BytesMissing))
    }

    /// Returns the events that are not committed yet.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Returns this upload as it is after the state store has committed it.
    #[must_use]
    pub fn committed(mut self) -> Self {
        self.record.version += 1;
        self.events.clear();
        self.term_began_at = self.record.updated_at;
        self.was_missing = self.record.missing_since.is_some();
        self
    }

    /// Returns the time of completion, also after the file was removed.
    pub fn completed_at(&self) -> Option<Timestamp> {
        self.record.timeline.iter().rev().find(|(stage, _)| *stage == Stage::Completed).map(|(_, at)| *at)
    }

    /// Reports whether the upload still needs its bytes: it has not ended, and its file is not marked for
    /// removal.
    pub fn owns_bytes(&self) -> bool {
        !matches!(self.record.stage, Stage::Ended(_)) && self.record.removed.is_none()
    }

    /// Returns the change that committing this upload makes to the number of uploads whose bytes are known to
    /// be missing.
    pub fn missing_change(&self) -> i64 {
        i64::from(self.record.missing_since.is_some()) - i64::from(self.was_missing)
    }

    /// Records bytes that are durable now and came from the live writer. An error changes nothing.
    pub fn receive(
        &mut self,
        durable: DurableBytes,
        policy: Option<ProgressPolicy>,
        now: Timestamp,
    ) -> Result<(), InconsistentChange> {
        if !self.record.stage.takes_bytes() {
            return Err(InconsistentChange::Closed(self.record.stage));
        }
        let end = durable.ranges.iter().map(|(_, end)| *end).max().unwrap_or(0);
        if let Some(length) = self.record.length.filter(|length| length.get() < end) {
            return Err(InconsistentChange::BeyondLength { end, length });
        }
        for (start, end) in durable.ranges {
            self.record.received.insert(start, end);
        }
        self.record.running_digests = durable.running_digests;
        self.record.resume = Some(durable.resume);
        self.set_expiry(durable.expires_at, now);
        self.record.updated_at = now;
        match self.record.stage {
            Stage::Created => self.enter(Stage::Receiving, EventKind::Receiving, now),
            Stage::Stalled => self.enter(Stage::Receiving, EventKind::Resumed, now),
            Stage::Receiving => {
                if policy.is_some_and(|policy| self.progress_is_due(policy, now)) {
                    self.publish(EventKind::Progress, now);
                }
            }
            Stage::Received | Stage::Verified | Stage::Stored | Stage::Completed | Stage::Ended(_) => {}
        }
        Ok(())
    }

    /// Extends the expiry of an open upload whose client was active without sending new bytes.
    pub fn touch(&mut self, running_digests: Vec<u8>, expires_at: Timestamp, now: Timestamp) {
        self.record.running_digests = running_digests;
        self.renew(expires_at, now);
    }

    /// Sets the expiry of an unfinished upload to `expires_at`, starting from `now`.
    pub fn renew(&mut self, expires_at: Timestamp, now: Timestamp) {
        self.set_expiry(expires_at, now);
        self.record.updated_at = now;
    }

    /// Moves the expiry to the result of `extended`, which gets the time at which the expiry was set and the
    /// expiry itself. Repeating the call changes nothing unless more time was skipped.
    pub fn extend_term(&mut self, extended: impl FnOnce(Timestamp, Timestamp) -> Timestamp, now: Timestamp) {
        let Some(at) = self.record.expires_at else { return };
        let extended = extended(self.term_began_at, at);
        if extended != at {
            self.set_expiry(extended, now);
        }
    }

    /// Sets the expiry, unless the application has set an earlier one.
    fn set_expiry(&mut self, at: Timestamp, now: Timestamp) {
        self.record.expires_at = Some(self.record.terms.expires_by.map_or(at, |by| by.min(at)));
        self.term_began_at = now;
    }

    /// Marks an upload as received, with the digests of the whole, once every byte is durable. An error
    /// changes nothing.
    pub fn seal(&mut self, digests: Vec<Digest>, now: Timestamp) -> Result<(), InconsistentChange> {
        self.check_sealable()?;
        self.record.digests = digests;
        self.record.running_digests = Vec::new();
        self.enter(Stage::Received, EventKind::Received, now);
        Ok(())
    }

    /// Checks that the upload is open and every byte of it is durable.
    pub fn check_sealable(&self) -> Result<(), InconsistentChange> {
        if !self.record.stage.takes_bytes() {
            return Err(InconsistentChange::Closed(self.record.stage));
        }
        self.check_whole()
    }

    /// Checks that every byte of the upload is durable.
    pub fn check_whole(&self) -> Result<(), InconsistentChange> {
        match self.is_full() {
            true => Ok(()),
            false => Err(InconsistentChange::NotWhole { offset: self.offset(), length: self.record.length }),
        }
    }

    /// Compares the promised digests with the computed ones: the upload becomes verified or fails.
    pub fn verify(&mut self, now: Timestamp) {
        debug_assert!(self.record.stage == Stage::Received, "only a received upload is verified");
        match self.broken_promise() {
            None => self.enter(Stage::Verified, EventKind::Verified, now),
            Some(algorithm) => {
                let message =
                    format!("the upload does not match the {} digest that the client declared", algorithm.name());
                self.fail(Failure { code: "digest-mismatch".to_owned(), message, rejection: None }, now);
            }
        }
    }

    /// Returns the algorithm of a promised digest that does not match the upload, if there is one.
    pub fn broken_promise(&self) -> Option<Algorithm> {
        let has = |promised: &&Digest| self.record.digests.contains(promised);
        self.record.promised_digests.iter().find(|promised| !has(promised)).map(Digest::algorithm)
    }

    /// Adds digests of the whole that could only be computed once every byte was readable.
    pub fn complete_digests(&mut self, digests: Vec<Digest>) {
        debug_assert!(self.record.stage == Stage::Received, "only a received upload lacks digests");
        self.record.digests.extend(digests);
        self.record.digests.sort_by_key(Digest::algorithm);
    }

    /// Returns the algorithms of wanted or promised digests of the whole upload that `known` lacks.
    pub fn missing_digests(&self, known: &[Digest]) -> Vec<Algorithm> {
        let promised = self.record.promised_digests.iter().map(Digest::algorithm);
        let wanted = self.record.wanted_digests.iter().copied().chain(promised).chain([Algorithm::Crc32c]);
        wanted.filter(|wanted| !known.iter().any(|known| known.algorithm() == *wanted)).collect()
    }

    /// Records that the application has accepted the upload before its completion.
    pub fn accept(&mut self, now: Timestamp) {
        debug_assert!(self.record.stage == Stage::Verified, "only a verified upload is approved by the application");
        self.record.accepted_at = Some(now);
        self.record.updated_at = now;
    }

    /// Records the facts about the content. The event of the following `verify` or failure publishes them.
    pub fn set_facts(&mut self, facts: Facts) {
        debug_assert!(self.record.stage == Stage::Received, "only a received upload is examined");
        self.record.facts = Some(facts);
    }

    /// Continues in a new blob after the committed bytes, if an earlier holder of the upload may still be
    /// writing to the current one. Returns true if the blob is new.
    pub fn begin_generation(&mut self, now: Timestamp) -> bool {
        debug_assert!(self.record.stage.takes_bytes(), "only an upload that accepts bytes begins a generation");
        let is_new = self.record.generations.begin(self.record.lease.generation, self.reach().get());
        if is_new {
            self.record.resume = None;
            self.record.updated_at = now;
        }
        is_new
    }

    /// Reports whether no node but the holder of the upload can be writing to its current blob.
    pub fn has_sole_writer(&self) -> bool {
        self.record.generations.is_of(self.record.lease.generation)
    }

    /// Reports whether all its bytes were copied into one blob, to which no node writes.
    pub fn is_joined(&self) -> bool {
        self.record.generations.are_joined_at(self.reach().get())
    }

    /// Forgets the blobs that were joined, after they were deleted.
    pub fn drop_joined(&mut self) {
        self.record.generations.drop_joined();
    }

    /// Records that the committed bytes are about to be joined into a new blob.
    pub fn begin_joining(&mut self, now: Timestamp) {
        self.record.generations.begin_joining(self.record.lease.generation);
        self.record.updated_at = now;
    }

    /// Records that one blob now holds all committed bytes, with the storage's data for continuing in it.
    pub fn join_generations(&mut self, resume: Vec<u8>, now: Timestamp) {
        self.record.generations.join(self.reach().get());
        self.record.resume = Some(resume);
        self.record.updated_at = now;
    }

    /// Marks an upload as stored: its bytes are under their final name.
    pub fn store(&mut self, now: Timestamp) {
        debug_assert!(self.record.stage == Stage::Verified, "only a verified upload is stored");
        self.record.generations.drop_joined();
        self.enter(Stage::Stored, EventKind::Stored, now);
    }

    pub fn complete(&mut self, now: Timestamp) {
        self.complete_at(None, now);
    }

    /// Completes the upload; the event contains the location of its file, if given.
    pub fn complete_at(&mut self, file: Option<String>, now: Timestamp) {
        debug_assert!(self.record.stage == Stage::Stored, "only a stored upload completes");
        self.record.expires_at = None;
        self.enter_with(Stage::Completed, EventKind::Completed, Details { file, ..Details::default() }, now);
    }

    /// Ends an upload that cannot complete.
    pub fn fail(&mut self, failure: Failure, now: Timestamp) {
        self.record.failure = Some(failure);
        self.end(Ended::Failed, EventKind::Failed, Details::default(), now);
    }

    pub fn expire(&mut self, now: Timestamp) {
        self.end(Ended::Expired, EventKind::Expired, Details::default(), now);
    }

    /// Records that stored bytes of the upload are missing. Returns true if that was not known before.
    pub fn mark_bytes_missing(&mut self, now: Timestamp) -> bool {
        let is_new = self.owns_bytes() && self.record.missing_since.is_none();
        if is_new {
            self.record.missing_since = Some(now);
            self.record.updated_at = now;
        }
        is_new
    }

    /// Records that the bytes are present again. Returns true if they were missing.
    pub fn clear_bytes_missing(&mut self, now: Timestamp) -> bool {
        let were_missing = self.record.missing_since.take().is_some();
        if were_missing {
            self.record.updated_at = now;
        }
        were_missing
    }

    /// Marks an upload as stalled after a period without data. New bytes resume it.
    pub fn stall(&mut self, now: Timestamp) {
        if self.record.stage == Stage::Receiving {
            self.enter(Stage::Stalled, EventKind::Stalled, now);
        }
    }

    /// Removes all free text that came from its client, the application or backends.
    pub fn expunge(&mut self) {
        self.record.metadata = Metadata::default();
        self.record.metadata_as_sent = None;
        if let Some(failure) = &mut self.record.failure {
            failure.message = "expunged".to_owned();
        }
        for report in &mut self.record.reports {
            report.message = None;
        }
    }

    fn end(&mut self, how: Ended, kind: EventKind, details: Details, now: Timestamp) {
        self.record.expires_at = None;
        self.record.running_digests = Vec::new();
        self.record.missing_since = None;
        self.enter_with(Stage::Ended(how), kind, details, now);
    }

    fn enter(&mut self, stage: Stage, kind: EventKind, now: Timestamp) {
        self.enter_with(stage, kind, Details::default(), now);
    }

    fn enter_with(&mut self, stage: Stage, kind: EventKind, details: Details, now: Timestamp) {
        debug_assert!(!matches!(self.record.stage, Stage::Ended(_)), "nothing follows an end");
        self.record.stage = stage;
        self.record.updated_at = now;
        if self.record.timeline.len() >= MAX_TIMELINE {
            let oldest = self.record.timeline.iter().skip(2).position(|(stage, _)| stage.takes_bytes());
            self.record.timeline.remove(oldest.map_or(0, |position| position + 2));
        }
        self.record.timeline.push((stage, now));
        self.publish_with(kind, details, now);
    }

    fn publish(&mut self, kind: EventKind, now: Timestamp) {
        self.publish_with(kind, Details::default(), now);
    }

    fn publish_with(&mut self, kind: EventKind, details: Details, now: Timestamp) {
        self.events.push(Event {
            sequence: self.record.next_sequence,
            kind,
            at: now,
            stage: self.record.stage,
            offset: self.offset(),
            length: self.record.length,
            digests: self.record.digests.clone(),
            details,
        });
        self.record.next_sequence += 1;
        self.record.last_progress = (Offset::new(self.received_bytes()).unwrap_or_default(), now);
    }

    fn progress_is_due(&self, policy: ProgressPolicy, now: Timestamp) -> bool {
        let (reported_bytes, published_at) = self.record.last_progress;
        let new_bytes = self.received_bytes().saturating_sub(reported_bytes.get());
        let hundredth = self.record.length.map_or(u64::MAX, |length| length.get().div_ceil(100).max(1));
        // A clock that was set back must not keep progress from being reported.
        let is_time = now < published_at || now.since(published_at) >= policy.every;
        is_time && new_bytes > 0 && new_bytes >= policy.min_bytes.min(hundredth)
    }
}
