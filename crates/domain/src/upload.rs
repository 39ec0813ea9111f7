//! One upload: its stages and every legal move between them.
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
//! A move changes the upload and notes the event that tells of it; the state store writes both in one transaction.
//! `failed`, `expired` and `terminated` are terminal: nothing follows them. `completed` is the last of the server's own
//! work, after which an upload may still be worked on by backends, and be deleted. An upload whose file retention or an
//! operator has removed stays `completed`; it cannot be deleted again.
//! A partial upload (tus concatenation) ends its way at `received`; it is material for a final one. From `received` on,
//! backends may report stages of their own; these are beside the way and change no stage.

use std::time::Duration;

use crate::checksum::{Algorithm, Digest};
use crate::event::{Details, Event, EventKind};
use crate::facts::Facts;
use crate::id::UploadId;
use crate::metadata::Metadata;
use crate::ranges::ReceivedRanges;
use crate::rejection::Rejection;
use crate::removal::{DeletedBy, Removal};
use crate::report::{MAX_STAGES, NewReport, News, Report, ReportRefused};
use crate::size::{Length, Offset};
use crate::time::Timestamp;

/// Where an upload stands. See the diagram above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Announced; not a byte yet.
    Created,
    /// Bytes are arriving, or were a moment ago.
    Receiving,
    /// No byte for a while; the client may come back.
    Stalled,
    /// Every byte is durable.
    Received,
    /// The promised digests match, and it is known what the bytes are.
    Verified,
    /// The bytes are at their final name.
    Stored,
    Completed,
    Ended(Ended),
}

/// How an upload ended without, or after, completing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ended {
    Failed,
    Expired,
    Terminated,
}

impl Ended {
    /// Goes after "has": `failed`, `expired`, `been terminated`.
    pub const fn past(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Terminated => "been terminated",
        }
    }
}

impl Stage {
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Receiving,
        Self::Stalled,
        Self::Received,
        Self::Verified,
        Self::Stored,
        Self::Completed,
        Self::Ended(Ended::Failed),
        Self::Ended(Ended::Expired),
        Self::Ended(Ended::Terminated),
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Receiving => "receiving",
            Self::Stalled => "stalled",
            Self::Received => "received",
            Self::Verified => "verified",
            Self::Stored => "stored",
            Self::Completed => "completed",
            Self::Ended(Ended::Failed) => "failed",
            Self::Ended(Ended::Expired) => "expired",
            Self::Ended(Ended::Terminated) => "terminated",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// Whether bytes may still be added.
    pub const fn takes_bytes(self) -> bool {
        matches!(self, Self::Created | Self::Receiving | Self::Stalled)
    }
}

/// The protocol an upload was created in; later requests are expected in the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// tus 1.0.
    Tus,
    /// Resumable Uploads for HTTP, the IETF draft.
    Ietf,
    /// Ranged `PUT` in order, as Google's client libraries speak it.
    Google,
    /// Ranged `PUT` in any order and from several connections at once; plain uploads are of this kind too.
    Ranged,
}

impl Dialect {
    pub const ALL: [Self; 4] = [Self::Tus, Self::Ietf, Self::Google, Self::Ranged];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tus => "tus",
            Self::Ietf => "ietf",
            Self::Google => "google",
            Self::Ranged => "ranged",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// Whether an upload completes by itself once all of its length is there. In the others the client says when.
    pub const fn completes_when_full(self) -> bool {
        match self {
            Self::Tus | Self::Ranged => true,
            Self::Ietf | Self::Google => false,
        }
    }

    /// Whether the bytes of an upload may come in any order.
    pub const fn takes_any_order(self) -> bool {
        match self {
            Self::Tus | Self::Ietf | Self::Google => false,
            Self::Ranged => true,
        }
    }
}

/// What part an upload plays in a concatenation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    Single,
    /// Material for final uploads.
    Partial,
    /// Made of these partial uploads, in this order.
    Final {
        parts: Vec<UploadId>,
        /// The list as its client sent it, to be echoed.
        as_sent: String,
    },
}

impl Role {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Partial => "partial",
            Self::Final { .. } => "final",
        }
    }
}

/// Whether stored bytes may exist for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bytes {
    Kept,
    Removed,
}

/// Why an upload failed, in words its client may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A stable word for programs, such as `digest-mismatch`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// The HTTP status its client is to be told, where a policy or the application has refused the upload; from 400
    /// to 499.
    pub status: Option<u16>,
}

/// What the application has set for one upload when it was asked before its creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// The most bytes it may have, where that is less than everyone may.
    pub max_bytes: Option<u64>,
    /// It expires then if it is not complete, whatever its client does.
    pub expires_by: Option<Timestamp>,
}

/// Everything known of an upload, as stored. Only [`Upload`] changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: UploadId,
    /// Counts commits; a commit names the version it read and loses if that has moved.
    pub version: u64,
    pub dialect: Dialect,
    pub role: Role,
    pub stage: Stage,
    /// Durable bytes.
    pub received: ReceivedRanges,
    /// `None` while the client has deferred it.
    pub length: Option<Length>,
    pub metadata: Metadata,
    /// The metadata as the client wrote it, to be echoed unchanged.
    pub metadata_as_sent: Option<String>,
    pub terms: Terms,
    /// Digests to compute besides CRC-32C, which is always computed.
    pub wanted_digests: Vec<Algorithm>,
    /// Digests of the whole upload that the client has promised.
    pub promised_digests: Vec<Digest>,
    /// The state of the running digests after the contiguous bytes; made and read by the engine.
    pub running_digests: Vec<u8>,
    /// Digests of the whole upload, from `received` on.
    pub digests: Vec<Digest>,
    /// What the bytes are, from `verified` on.
    pub facts: Option<Facts>,
    /// When the application, asked before completion, said yes. Asked once; the answer stays.
    pub accepted_at: Option<Timestamp>,
    /// Stages of their own that backends have reported, in the order they first did.
    pub reports: Vec<Report>,
    /// What the storage needs to go on writing; `None` before the first byte. Made and read by the storage.
    pub resume: Option<Vec<u8>>,
    pub bytes: Bytes,
    /// When the file of a completed upload was given up for removal, and by whom.
    pub removed: Option<Removal>,
    /// Since when it is known that stored bytes are not where they should be.
    pub missing_since: Option<Timestamp>,
    /// When each stage was entered, oldest first.
    pub timeline: Vec<(Stage, Timestamp)>,
    pub failure: Option<Failure>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// `None` when it does not expire.
    pub expires_at: Option<Timestamp>,
    /// The number the next event gets.
    pub next_sequence: u64,
    /// How many bytes there were, and when, at the last event.
    pub last_progress: (Offset, Timestamp),
}

/// What a client asks for when it creates an upload.
#[derive(Debug, Clone)]
pub struct NewUpload {
    pub id: UploadId,
    pub dialect: Dialect,
    pub role: Role,
    pub length: Option<Length>,
    pub metadata: Metadata,
    pub metadata_as_sent: Option<String>,
    pub terms: Terms,
    pub wanted_digests: Vec<Algorithm>,
    pub promised_digests: Vec<Digest>,
    pub expires_at: Timestamp,
}

/// Bytes made durable, and the state that goes with them.
#[derive(Debug, Clone)]
pub struct Durable {
    /// Where they are, as `(start, end)`, end excluded.
    pub ranges: Vec<(u64, u64)>,
    pub running_digests: Vec<u8>,
    pub resume: Vec<u8>,
    pub expires_at: Timestamp,
}

/// When progress within a stage is worth an event (webhooks.md C2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressPolicy {
    /// At most one event in this time.
    pub every: Duration,
    /// Unless a hundredth of the length has come in, at least this many bytes have.
    pub min_bytes: u64,
}

/// What requests have said of a whole upload and no commit has written yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    pub length: Option<Length>,
    pub promised_digests: Vec<Digest>,
}

impl Declared {
    pub fn is_empty(&self) -> bool {
        self.length.is_none() && self.promised_digests.is_empty()
    }

    /// Drops what `upload` says already.
    pub fn forget(&mut self, upload: &Upload) {
        self.length = self.length.filter(|_| upload.record.length.is_none());
        self.promised_digests.retain(|digest| !upload.record.promised_digests.contains(digest));
    }
}

/// A change that would leave a record which contradicts itself. Its caller is at fault, never a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    #[error("an upload that is {} takes no bytes", .0.name())]
    Closed(Stage),
    #[error("bytes up to {end} lie beyond the length of {length}")]
    BeyondLength { end: u64, length: Length },
    #[error("{offset} bytes are there without a gap, which is not the whole")]
    NotWhole { offset: Offset, length: Option<Length> },
    #[error("the bytes from {start} to {end} are to be acknowledged and are not all there")]
    NotReceived { start: u64, end: u64 },
    #[error("every byte of the upload would be there, and nothing would complete it")]
    Unsealed,
}

/// What came of a backend's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    Changed,
    /// It was known already.
    Unchanged,
}

/// The longest timeline kept; an upload that stalls over and over forgets its oldest stalls.
const MAX_TIMELINE: usize = 64;

/// An upload, with the events its latest moves have caused and that no commit has written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    record: Record,
    news: Vec<Event>,
    /// When its `expires_at` was set.
    term_began_at: Timestamp,
    /// Whether its bytes were known to be missing at the last commit.
    was_missing: bool,
}

impl Upload {
    /// Creates an upload. One of length zero has all its bytes; its caller seals it at once.
    pub fn create(new: NewUpload, now: Timestamp) -> Self {
        let record = Record {
            id: new.id,
            version: 0,
            dialect: new.dialect,
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
            bytes: Bytes::Kept,
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
        let mut upload = Self { record, news: Vec::new(), term_began_at: now, was_missing: false };
        upload.live_until(new.expires_at, now);
        upload.enter(Stage::Created, EventKind::Created, now);
        upload
    }

    /// Takes an upload as the state store has it.
    pub fn from_record(record: Record) -> Self {
        let (term_began_at, was_missing) = (record.updated_at, record.missing_since.is_some());
        Self { record, news: Vec::new(), term_began_at, was_missing }
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    pub fn id(&self) -> UploadId {
        self.record.id
    }

    pub fn stage(&self) -> Stage {
        self.record.stage
    }

    pub fn dialect(&self) -> Dialect {
        self.record.dialect
    }

    pub fn length(&self) -> Option<Length> {
        self.record.length
    }

    /// How many bytes from the first on are durable without a gap.
    pub fn offset(&self) -> Offset {
        self.record.received.contiguous()
    }

    /// Where the last durable byte ends.
    pub fn reach(&self) -> Offset {
        self.record.received.end()
    }

    /// How many bytes are durable, wherever they are.
    pub fn received_bytes(&self) -> u64 {
        self.record.received.total_bytes()
    }

    pub fn is_partial(&self) -> bool {
        matches!(self.record.role, Role::Partial)
    }

    pub fn is_final(&self) -> bool {
        matches!(self.record.role, Role::Final { .. })
    }

    /// Whether every byte of a known length is there, and none beyond it.
    pub fn is_full(&self) -> bool {
        self.record.length.is_some_and(|length| length.get() == self.offset().get())
    }

    /// Whether it is to be sealed although no client says another word.
    pub fn awaits_seal(&self) -> bool {
        let completes = self.record.dialect.completes_when_full() && !self.is_final();
        completes && self.record.stage.takes_bytes() && self.is_full()
    }

    /// Whether nothing is left to happen to it by itself: completed, ended, or a partial with all its bytes.
    pub fn is_settled(&self) -> bool {
        match self.record.stage {
            Stage::Created | Stage::Receiving | Stage::Stalled | Stage::Verified | Stage::Stored => false,
            Stage::Received => self.is_partial(),
            Stage::Completed | Stage::Ended(_) => true,
        }
    }

    /// Whether every byte is there and the rest of the way is under way.
    pub fn is_settling(&self) -> bool {
        !self.record.stage.takes_bytes() && !self.is_settled()
    }

    /// Whether its time has passed, be it recorded already or not.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        let expires = self.record.stage.takes_bytes() || (self.record.stage == Stage::Received && self.is_partial());
        expires && self.record.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether the time is over that the application has set, be bytes arriving or not.
    pub fn has_outlived_its_terms(&self, now: Timestamp) -> bool {
        self.record.stage.takes_bytes() && self.record.terms.expires_by.is_some_and(|by| by <= now)
    }

    /// The most bytes it may have, where all uploads may have `max_bytes`.
    pub fn most_bytes(&self, max_bytes: u64) -> u64 {
        self.record.terms.max_bytes.map_or(max_bytes, |own| own.min(max_bytes))
    }

    /// What is said to whoever asks for an upload that has ended or whose file was removed, always the same: of one that
    /// was refused, why.
    pub fn ended(&self) -> Option<Rejection> {
        let Stage::Ended(how) = self.record.stage else {
            return self.record.removed.map(|_| Rejection::Removed);
        };
        let refusal = self.record.failure.as_ref().filter(|failure| failure.status.is_some());
        Some(refusal.map_or(Rejection::Gone(how), |failure| Rejection::Refused(failure.clone())))
    }

    /// The same, of one whose time has passed though nobody has recorded it yet, and of one whose bytes are missing.
    pub fn gone(&self, now: Timestamp) -> Option<Rejection> {
        self.ended()
            .or_else(|| self.is_expired(now).then_some(Rejection::Gone(Ended::Expired)))
            .or_else(|| self.record.missing_since.map(|_| Rejection::BytesMissing))
    }

    /// Events not yet committed.
    pub fn news(&self) -> &[Event] {
        &self.news
    }

    /// This upload after the state store has committed it.
    #[must_use]
    pub fn committed(mut self) -> Self {
        self.record.version += 1;
        self.news.clear();
        self.term_began_at = self.record.updated_at;
        self.was_missing = self.record.missing_since.is_some();
        self
    }

    /// Returns when it completed, also after its file was removed.
    pub fn completed_at(&self) -> Option<Timestamp> {
        self.record.timeline.iter().rev().find(|(stage, _)| *stage == Stage::Completed).map(|(_, at)| *at)
    }

    /// Returns whether there is anything to store: it has not ended, and its file was not given up for removal.
    pub fn owns_bytes(&self) -> bool {
        !matches!(self.record.stage, Stage::Ended(_)) && self.record.removed.is_none()
    }

    /// Returns by how much a commit of this changes the number of uploads whose bytes are known to be missing.
    pub fn missing_change(&self) -> i64 {
        i64::from(self.record.missing_since.is_some()) - i64::from(self.was_missing)
    }

    /// Whether an append at `at` is in order. `count` is what it announces to carry, if it does, and `max_bytes`
    /// the most any upload of yet unknown length may hold.
    pub fn check_append(
        &self,
        at: Offset,
        count: Option<u64>,
        max_bytes: u64,
        now: Timestamp,
    ) -> Result<(), Rejection> {
        self.check_open(now)?;
        if at != self.offset() {
            return Err(Rejection::WrongOffset { ours: self.offset(), theirs: at });
        }
        self.check_fits(at, count, max_bytes)
    }

    /// Whether bytes at `at`, wherever that is, are in order.
    pub fn check_range(&self, at: Offset, count: Option<u64>, max_bytes: u64, now: Timestamp) -> Result<(), Rejection> {
        self.check_open(now)?;
        self.check_fits(at, count, max_bytes)
    }

    fn check_open(&self, now: Timestamp) -> Result<(), Rejection> {
        if let Some(why) = self.gone(now) {
            return Err(why);
        }
        if self.is_final() { Err(Rejection::IsFinal) } else { Ok(()) }
    }

    fn check_fits(&self, at: Offset, count: Option<u64>, max_bytes: u64) -> Result<(), Rejection> {
        let end = at.plus(count.unwrap_or(0));
        let max_bytes = self.most_bytes(max_bytes);
        match self.record.length {
            // tus 1.0, PATCH: repeating an empty append after a lost answer is not an error.
            Some(length) if !self.record.stage.takes_bytes() && count != Some(0) => {
                Err(Rejection::AlreadyComplete(length))
            }
            Some(length) if end.is_none_or(|end| !length.admits(end)) => Err(Rejection::BeyondLength(length)),
            None if end.is_none_or(|end| end.get() > max_bytes) => Err(Rejection::OverLimit(max_bytes)),
            Some(_) | None => Ok(()),
        }
    }

    /// Sets a deferred length. Saying the known length again is fine. `taken` is where the last byte ends that was taken
    /// from a client, committed or not.
    pub fn declare_length(&mut self, length: Length, max_bytes: u64, taken: Offset) -> Result<(), Rejection> {
        let max_bytes = self.most_bytes(max_bytes);
        let reach = self.reach().max(taken);
        match self.record.length {
            Some(ours) if ours == length => Ok(()),
            Some(ours) => Err(Rejection::LengthChanged { ours, theirs: length }),
            None if length.get() > max_bytes => Err(Rejection::OverLimit(max_bytes)),
            None if !length.admits(reach) => Err(Rejection::LengthBelowOffset { offset: reach, length }),
            None => {
                self.record.length = Some(length);
                Ok(())
            }
        }
    }

    /// Takes digests that the whole upload must turn out to have, besides those promised before.
    pub fn promise(&mut self, digests: &[Digest]) {
        for digest in digests {
            if !self.record.promised_digests.contains(digest) {
                self.record.promised_digests.push(digest.clone());
            }
        }
    }

    /// What was declared of this copy and is unknown to `earlier`.
    pub fn declared_since(&self, earlier: &Self) -> Declared {
        let mut declared =
            Declared { length: self.record.length, promised_digests: self.record.promised_digests.clone() };
        declared.forget(earlier);
        declared
    }

    /// Takes over what was declared of another copy.
    pub fn take_over(&mut self, declared: &Declared) {
        self.record.length = self.record.length.or(declared.length);
        self.promise(&declared.promised_digests);
    }

    /// Takes note of bytes that are durable now, and came from the live writer. After an error nothing has changed.
    pub fn receive(
        &mut self,
        durable: Durable,
        policy: Option<ProgressPolicy>,
        now: Timestamp,
    ) -> Result<(), Inconsistent> {
        if !self.record.stage.takes_bytes() {
            return Err(Inconsistent::Closed(self.record.stage));
        }
        let end = durable.ranges.iter().map(|(_, end)| *end).max().unwrap_or(0);
        if let Some(length) = self.record.length.filter(|length| length.get() < end) {
            return Err(Inconsistent::BeyondLength { end, length });
        }
        for (start, end) in durable.ranges {
            self.record.received.insert(start, end);
        }
        self.record.running_digests = durable.running_digests;
        self.record.resume = Some(durable.resume);
        self.live_until(durable.expires_at, now);
        self.record.updated_at = now;
        match self.record.stage {
            Stage::Created => self.enter(Stage::Receiving, EventKind::Receiving, now),
            Stage::Stalled => self.enter(Stage::Receiving, EventKind::Resumed, now),
            Stage::Receiving => {
                if policy.is_some_and(|policy| self.progress_is_due(policy, now)) {
                    self.tell(EventKind::Progress, now);
                }
            }
            Stage::Received | Stage::Verified | Stage::Stored | Stage::Completed | Stage::Ended(_) => {}
        }
        Ok(())
    }

    /// Extends the life of an open upload whose client has been heard of without new bytes.
    pub fn touch(&mut self, running_digests: Vec<u8>, expires_at: Timestamp, now: Timestamp) {
        self.record.running_digests = running_digests;
        self.renew(expires_at, now);
    }

    /// Sets when it expires, if the application has not set an earlier time.
    /// Gives an unfinished upload until `expires_at`, from `now` on.
    pub fn renew(&mut self, expires_at: Timestamp, now: Timestamp) {
        self.live_until(expires_at, now);
        self.record.updated_at = now;
    }

    /// Moves its end to where `extended` moves it, given when it was set and where it is. Doing it again changes nothing
    /// unless more time was passed over.
    pub fn extend_term(&mut self, extended: impl FnOnce(Timestamp, Timestamp) -> Timestamp, now: Timestamp) {
        let Some(at) = self.record.expires_at else { return };
        let extended = extended(self.term_began_at, at);
        if extended != at {
            self.live_until(extended, now);
        }
    }

    fn live_until(&mut self, at: Timestamp, now: Timestamp) {
        self.record.expires_at = Some(self.record.terms.expires_by.map_or(at, |by| by.min(at)));
        self.term_began_at = now;
    }

    /// Marks an upload whose every byte is durable, with the digests of the whole. After an error nothing has changed.
    pub fn seal(&mut self, digests: Vec<Digest>, now: Timestamp) -> Result<(), Inconsistent> {
        self.check_sealable()?;
        self.record.digests = digests;
        self.record.running_digests = Vec::new();
        self.enter(Stage::Received, EventKind::Received, now);
        Ok(())
    }

    /// Whether it is open and every byte of it is durable.
    pub fn check_sealable(&self) -> Result<(), Inconsistent> {
        if !self.record.stage.takes_bytes() {
            return Err(Inconsistent::Closed(self.record.stage));
        }
        self.check_whole()
    }

    /// Whether every byte of it is durable.
    pub fn check_whole(&self) -> Result<(), Inconsistent> {
        match self.is_full() {
            true => Ok(()),
            false => Err(Inconsistent::NotWhole { offset: self.offset(), length: self.record.length }),
        }
    }

    /// Compares the promised digests with the computed ones: verified, or failed.
    pub fn verify(&mut self, now: Timestamp) {
        debug_assert!(self.record.stage == Stage::Received, "only a received upload is verified");
        match self.broken_promise() {
            None => self.enter(Stage::Verified, EventKind::Verified, now),
            Some(algorithm) => {
                let message = format!("the {} digest promised by the client does not match", algorithm.name());
                self.fail(Failure { code: "digest-mismatch".to_owned(), message, status: None }, now);
            }
        }
    }

    /// The digest that its client promised of the whole upload and that it turned out not to have.
    pub fn broken_promise(&self) -> Option<Algorithm> {
        let has = |promised: &&Digest| self.record.digests.contains(promised);
        self.record.promised_digests.iter().find(|promised| !has(promised)).map(Digest::algorithm)
    }

    /// Takes note that the application, asked before completion, has said yes.
    pub fn accept(&mut self, now: Timestamp) {
        debug_assert!(self.record.stage == Stage::Verified, "only a verified upload is asked about");
        self.record.accepted_at = Some(now);
        self.record.updated_at = now;
    }

    /// Takes note of what the bytes are, which `verify` or a refusal then tells.
    pub fn learn(&mut self, facts: Facts) {
        debug_assert!(self.record.stage == Stage::Received, "only a received upload is looked into");
        self.record.facts = Some(facts);
    }

    /// Marks an upload whose bytes are at their final name.
    pub fn store(&mut self, now: Timestamp) {
        debug_assert!(self.record.stage == Stage::Verified, "only a verified upload is stored");
        self.enter(Stage::Stored, EventKind::Stored, now);
    }

    pub fn complete(&mut self, now: Timestamp) {
        self.complete_at(None, now);
    }

    /// Completes the upload, and says in the event where its file is.
    pub fn complete_at(&mut self, file: Option<String>, now: Timestamp) {
        debug_assert!(self.record.stage == Stage::Stored, "only a stored upload completes");
        self.record.expires_at = None;
        self.enter_with(Stage::Completed, EventKind::Completed, Details { file, ..Details::default() }, now);
    }

    /// Ends an upload that cannot be completed.
    pub fn fail(&mut self, failure: Failure, now: Timestamp) {
        self.record.failure = Some(failure);
        self.end(Ended::Failed, EventKind::Failed, Details::default(), now);
    }

    pub fn expire(&mut self, now: Timestamp) {
        self.end(Ended::Expired, EventKind::Expired, Details::default(), now);
    }

    /// Ends an upload because its client, or an operator, said so. A completed one may be terminated too.
    pub fn terminate(&mut self, by: DeletedBy, now: Timestamp) -> Result<(), Rejection> {
        if let Stage::Ended(how) = self.record.stage {
            return Err(Rejection::Gone(how));
        }
        if self.record.removed.is_some() {
            return Err(Rejection::Removed);
        }
        if self.is_expired(now) {
            return Err(Rejection::Gone(Ended::Expired));
        }
        self.end(Ended::Terminated, EventKind::Terminated, Details::by(by), now);
        Ok(())
    }

    /// Gives up the file of a completed upload, once. The upload stays completed, and backends may still report on it.
    pub fn remove(&mut self, by: DeletedBy, now: Timestamp) -> Result<(), Rejection> {
        debug_assert!(self.record.stage == Stage::Completed, "only a completed upload has a file");
        debug_assert!(by != DeletedBy::Client, "a client's deletion terminates");
        if self.record.removed.is_some() {
            return Err(Rejection::Removed);
        }
        self.record.removed = Some(Removal { at: now, by });
        self.record.missing_since = None;
        self.record.updated_at = now;
        self.tell_with(EventKind::Removed, Details::by(by), now);
        Ok(())
    }

    /// Deletes an upload for an operator, whatever its stage: one that has completed loses its file, one whose time has
    /// passed expires, any other is terminated.
    pub fn delete_for_operator(&mut self, now: Timestamp) -> Result<(), Rejection> {
        if self.record.stage == Stage::Completed {
            return self.remove(DeletedBy::Operator, now);
        }
        if self.is_expired(now) {
            self.expire(now);
            return Ok(());
        }
        self.terminate(DeletedBy::Operator, now)
    }

    /// Notes that stored bytes of the upload are not where they should be. Says whether that was unknown.
    pub fn bytes_are_missing(&mut self, now: Timestamp) -> bool {
        let is_new = self.owns_bytes() && self.record.missing_since.is_none();
        if is_new {
            self.record.missing_since = Some(now);
            self.record.updated_at = now;
        }
        is_new
    }

    /// Notes that the bytes are where they should be. Says whether they were missing.
    pub fn bytes_are_back(&mut self, now: Timestamp) -> bool {
        let were_missing = self.record.missing_since.take().is_some();
        if were_missing {
            self.record.updated_at = now;
        }
        were_missing
    }

    /// Marks an upload that has been silent for too long; bytes bring it back.
    pub fn stall(&mut self, now: Timestamp) {
        if self.record.stage == Stage::Receiving {
            self.enter(Stage::Stalled, EventKind::Stalled, now);
        }
    }

    /// Takes note of what a backend says of a stage of its own. Saying it again changes nothing.
    pub fn report(&mut self, new: NewReport, now: Timestamp) -> Result<Reported, ReportRefused> {
        self.check_reportable(now)?;
        let place = self.record.reports.iter().position(|report| report.name == new.name());
        let before = place.and_then(|place| self.record.reports.get(place));
        if before.is_none() && self.record.reports.len() >= MAX_STAGES {
            return Err(ReportRefused::TooMany);
        }
        let news = new.news_after(before, now);
        let told_at = before.filter(|_| news == News::Quiet).map_or(now, |before| before.told_at);
        if news == News::None {
            return Ok(Reported::Unchanged);
        }
        let report = new.into_report(now, told_at);
        match place {
            Some(place) => self.record.reports[place] = report.clone(),
            None => self.record.reports.push(report.clone()),
        }
        self.record.updated_at = now;
        if news == News::ToTell {
            self.tell_with(EventKind::Processing, Details { report: Some(report), ..Details::default() }, now);
        }
        Ok(Reported::Changed)
    }

    /// Whether backends may report stages of their own now.
    pub fn check_reportable(&self, now: Timestamp) -> Result<(), ReportRefused> {
        match self.record.stage {
            Stage::Created | Stage::Receiving | Stage::Stalled => Err(ReportRefused::TooEarly(self.record.stage)),
            Stage::Ended(how) => Err(ReportRefused::Ended(how)),
            Stage::Received | Stage::Verified | Stage::Stored | Stage::Completed if self.is_expired(now) => {
                Err(ReportRefused::Ended(Ended::Expired))
            }
            Stage::Received | Stage::Verified | Stage::Stored | Stage::Completed => Ok(()),
        }
    }

    /// Takes out what its client, the application and backends have said in their own words.
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

    /// Takes note that the bytes of an upload that needs them no more are gone.
    pub fn bytes_removed(&mut self, now: Timestamp) {
        debug_assert!(!self.owns_bytes(), "bytes are removed only after the record says so");
        self.record.bytes = Bytes::Removed;
        self.record.resume = None;
        self.record.updated_at = now;
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
        self.tell_with(kind, details, now);
    }

    fn tell(&mut self, kind: EventKind, now: Timestamp) {
        self.tell_with(kind, Details::default(), now);
    }

    fn tell_with(&mut self, kind: EventKind, details: Details, now: Timestamp) {
        self.news.push(Event {
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
        let (told, told_at) = self.record.last_progress;
        let new_bytes = self.received_bytes().saturating_sub(told.get());
        let hundredth = self.record.length.map_or(u64::MAX, |length| length.get().div_ceil(100).max(1));
        // A clock that was set back must not keep progress from being reported.
        let is_time = now < told_at || now.since(told_at) >= policy.every;
        is_time && new_bytes > 0 && new_bytes >= policy.min_bytes.min(hundredth)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);
    const LATER: Timestamp = Timestamp::from_unix_ms(9_000_000);
    const LIMIT: u64 = 1_000;

    fn asked(length: Option<u64>, role: Role) -> NewUpload {
        NewUpload {
            id: UploadId::new(NOW, [0; 10]),
            dialect: Dialect::Tus,
            role,
            length: length.and_then(Length::new),
            metadata: Metadata::default(),
            metadata_as_sent: None,
            terms: Terms::default(),
            wanted_digests: vec![],
            promised_digests: vec![],
            expires_at: LATER,
        }
    }

    fn new_upload(length: Option<u64>, role: Role) -> Upload {
        Upload::create(asked(length, role), NOW)
    }

    fn offset(bytes: u64) -> Offset {
        Offset::new(bytes).unwrap()
    }

    fn durable(start: u64, end: u64) -> Durable {
        Durable { ranges: vec![(start, end)], running_digests: vec![], resume: vec![], expires_at: LATER }
    }

    fn kinds(upload: &Upload) -> Vec<EventKind> {
        upload.news().iter().map(|event| event.kind).collect()
    }

    #[test]
    fn an_upload_that_was_refused_says_why_for_good() {
        let failure = |status| Failure { code: "type-not-allowed".to_owned(), message: "no".to_owned(), status };
        let mut refused = new_upload(Some(10), Role::Single);
        assert_eq!(refused.gone(NOW), None);
        refused.fail(failure(Some(415)), NOW);
        assert_eq!(refused.ended(), Some(Rejection::Refused(failure(Some(415)))));
        assert_eq!(refused.gone(LATER), refused.ended());
        assert_eq!(
            refused.check_append(Offset::ZERO, Some(1), LIMIT, NOW),
            Err(Rejection::Refused(failure(Some(415))))
        );

        let mut broken = new_upload(Some(10), Role::Single);
        assert_eq!(broken.gone(LATER), Some(Rejection::Gone(Ended::Expired)));
        broken.fail(failure(None), NOW);
        assert_eq!(broken.ended(), Some(Rejection::Gone(Ended::Failed)));
    }

    #[test]
    fn the_straight_way_tells_every_stage_once() {
        let mut upload = new_upload(Some(10), Role::Single);
        upload.receive(durable(0, 4), None, NOW).unwrap();
        upload.receive(durable(4, 10), None, NOW).unwrap();
        upload.seal(vec![], NOW).unwrap();
        upload.verify(NOW);
        upload.store(NOW);
        upload.complete(NOW);
        use EventKind::*;
        assert_eq!(kinds(&upload), [Created, Receiving, Received, Verified, Stored, Completed]);
        assert!(upload.news().iter().map(|event| event.sequence).eq(1..=6));
        assert_eq!(upload.record().expires_at, None);
        assert!(upload.is_settled());
    }

    #[test]
    fn a_stall_is_told_and_so_is_the_return() {
        let mut upload = new_upload(Some(10), Role::Single);
        upload.stall(NOW);
        assert_eq!(upload.stage(), Stage::Created, "what never began cannot stall");
        upload.receive(durable(0, 4), None, NOW).unwrap();
        upload.stall(NOW);
        upload.stall(NOW);
        upload.receive(durable(4, 5), None, NOW).unwrap();
        use EventKind::*;
        assert_eq!(kinds(&upload), [Created, Receiving, Stalled, Resumed]);
    }

    #[test]
    fn stalling_for_ever_keeps_the_timeline_bounded() {
        let mut upload = new_upload(None, Role::Single);
        for byte in 0..1_000 {
            upload.receive(durable(byte, byte + 1), None, NOW).unwrap();
            upload.stall(NOW);
        }
        assert_eq!(upload.record().timeline.len(), MAX_TIMELINE);
        assert_eq!(upload.record().timeline[0].0, Stage::Created);
    }

    #[test]
    fn a_broken_promise_fails_the_upload() {
        let mut upload = new_upload(Some(0), Role::Single);
        let promised = Digest::new(Algorithm::Crc32, vec![1; 4]).unwrap();
        upload.record.promised_digests = vec![promised.clone()];
        upload.seal(vec![Digest::new(Algorithm::Crc32, vec![2; 4]).unwrap()], NOW).unwrap();
        upload.verify(NOW);
        assert_eq!(upload.stage(), Stage::Ended(Ended::Failed));
        assert_eq!(upload.record().failure.as_ref().unwrap().code, "digest-mismatch");
        assert_eq!(upload.check_append(Offset::ZERO, None, LIMIT, NOW), Err(Rejection::Gone(Ended::Failed)));
    }

    #[test]
    fn an_append_must_fit() {
        let mut upload = new_upload(Some(10), Role::Single);
        upload.receive(durable(0, 4), None, NOW).unwrap();
        let length = Length::new(10).unwrap();
        let wrong = |theirs| Err(Rejection::WrongOffset { ours: offset(4), theirs: offset(theirs) });
        for (at, count, expected) in [
            (4, Some(6), Ok(())),
            (4, Some(0), Ok(())),
            (4, None, Ok(())),
            (4, Some(7), Err(Rejection::BeyondLength(length))),
            (4, Some(u64::MAX), Err(Rejection::BeyondLength(length))),
            (3, Some(1), wrong(3)),
            (5, Some(1), wrong(5)),
        ] {
            assert_eq!(upload.check_append(offset(at), count, LIMIT, NOW), expected, "{at} {count:?}");
        }
        assert_eq!(upload.check_append(offset(4), None, LIMIT, LATER), Err(Rejection::Gone(Ended::Expired)));

        upload.receive(durable(4, 10), None, NOW).unwrap();
        upload.seal(vec![], NOW).unwrap();
        assert_eq!(upload.check_append(offset(10), Some(0), LIMIT, NOW), Ok(()));
        assert_eq!(upload.check_append(offset(10), Some(1), LIMIT, NOW), Err(Rejection::AlreadyComplete(length)));

        let deferred = new_upload(None, Role::Single);
        assert_eq!(deferred.check_append(Offset::ZERO, Some(LIMIT), LIMIT, NOW), Ok(()));
        assert_eq!(deferred.check_append(Offset::ZERO, Some(LIMIT + 1), LIMIT, NOW), Err(Rejection::OverLimit(LIMIT)));
    }

    #[test]
    fn a_length_is_declared_once() {
        let mut upload = new_upload(None, Role::Single);
        upload.receive(durable(0, 4), None, NOW).unwrap();
        let length = |bytes| Length::new(bytes).unwrap();
        assert!(matches!(
            upload.declare_length(length(3), LIMIT, Offset::ZERO),
            Err(Rejection::LengthBelowOffset { .. })
        ));
        assert_eq!(upload.declare_length(length(LIMIT + 1), LIMIT, Offset::ZERO), Err(Rejection::OverLimit(LIMIT)));
        assert_eq!(upload.declare_length(length(4), LIMIT, Offset::ZERO), Ok(()));
        assert_eq!(upload.declare_length(length(4), LIMIT, Offset::ZERO), Ok(()));
        assert!(matches!(upload.declare_length(length(5), LIMIT, Offset::ZERO), Err(Rejection::LengthChanged { .. })));
        assert!(upload.is_full());
    }

    #[test]
    fn a_length_admits_what_was_taken_and_is_not_committed() {
        let length = Length::new(4).unwrap();
        let mut upload = new_upload(None, Role::Single);
        let expected = Rejection::LengthBelowOffset { offset: offset(5), length };
        assert_eq!(upload.declare_length(length, LIMIT, offset(5)), Err(expected));
        assert_eq!(upload.length(), None);
        assert_eq!(upload.declare_length(length, LIMIT, offset(4)), Ok(()));
    }

    #[test]
    fn what_is_not_whole_is_not_sealed_and_what_does_not_fit_is_not_received() {
        let mut upload = new_upload(Some(10), Role::Single);
        upload.receive(durable(0, 4), None, NOW).unwrap();
        let before = upload.clone();
        assert!(matches!(upload.seal(vec![], NOW), Err(Inconsistent::NotWhole { .. })));
        assert!(matches!(upload.receive(durable(4, 11), None, NOW), Err(Inconsistent::BeyondLength { end: 11, .. })));
        assert_eq!(upload, before);
        assert!(!upload.awaits_seal());
        upload.receive(durable(4, 10), None, NOW).unwrap();
        assert!(upload.awaits_seal());
        upload.seal(vec![], NOW).unwrap();
        assert!(!upload.awaits_seal());
        let before = upload.clone();
        assert_eq!(upload.seal(vec![], NOW), Err(Inconsistent::Closed(Stage::Received)));
        assert_eq!(upload.receive(durable(0, 1), None, NOW), Err(Inconsistent::Closed(Stage::Received)));
        assert_eq!(upload, before);
        let mut endless = new_upload(None, Role::Single);
        assert!(matches!(endless.seal(vec![], NOW), Err(Inconsistent::NotWhole { .. })));
    }

    #[test]
    fn what_was_declared_is_taken_over_once() {
        let digest = |byte| Digest::new(Algorithm::Crc32, vec![byte; 4]).unwrap();
        let mut committed = new_upload(None, Role::Single);
        committed.promise(&[digest(1)]);
        let mut view = committed.clone();
        view.declare_length(Length::new(9).unwrap(), LIMIT, Offset::ZERO).unwrap();
        view.promise(&[digest(1), digest(2)]);
        let mut declared = view.declared_since(&committed);
        assert_eq!(declared, Declared { length: Length::new(9), promised_digests: vec![digest(2)] });
        committed.take_over(&declared);
        assert_eq!(committed, view);
        declared.forget(&committed);
        assert!(declared.is_empty());
    }

    #[test]
    fn what_the_application_has_set_holds_for_bytes_and_time() {
        let terms = Terms { max_bytes: Some(100), expires_by: Some(Timestamp::from_unix_ms(2_000_000)) };
        let new = NewUpload { terms: terms.clone(), ..asked(None, Role::Single) };
        let mut upload = Upload::create(new, NOW);
        assert_eq!(upload.record().expires_at, terms.expires_by);
        assert_eq!(upload.check_append(Offset::ZERO, Some(101), LIMIT, NOW), Err(Rejection::OverLimit(100)));
        assert_eq!(
            upload.declare_length(Length::new(101).unwrap(), LIMIT, Offset::ZERO),
            Err(Rejection::OverLimit(100))
        );
        assert_eq!(upload.declare_length(Length::new(51).unwrap(), 50, Offset::ZERO), Err(Rejection::OverLimit(50)));
        upload.receive(durable(0, 4), None, NOW).unwrap();
        upload.touch(Vec::new(), LATER, NOW);
        assert_eq!(upload.record().expires_at, terms.expires_by, "bytes do not put it off");
        assert!(!upload.has_outlived_its_terms(NOW) && upload.has_outlived_its_terms(LATER));
    }

    #[test]
    fn terminating_works_until_it_has_ended() {
        let mut upload = new_upload(Some(0), Role::Single);
        upload.seal(vec![], NOW).unwrap();
        upload.verify(NOW);
        upload.store(NOW);
        upload.complete(NOW);
        assert_eq!(upload.terminate(DeletedBy::Client, NOW), Ok(()));
        assert_eq!(upload.terminate(DeletedBy::Client, NOW), Err(Rejection::Gone(Ended::Terminated)));
    }

    fn completed() -> Upload {
        let mut upload = new_upload(Some(0), Role::Single);
        upload.seal(vec![], NOW).unwrap();
        upload.verify(NOW);
        upload.store(NOW);
        upload.complete(NOW);
        upload
    }

    #[test]
    fn a_file_is_removed_once_and_its_upload_stays_completed() {
        for by in [DeletedBy::Operator, DeletedBy::Retention] {
            let mut upload = completed();
            let told = upload.news().len();
            assert_eq!(upload.remove(by, LATER), Ok(()));
            assert_eq!(upload.record().removed, Some(Removal { at: LATER, by }));
            assert_eq!((upload.stage(), upload.completed_at()), (Stage::Completed, Some(NOW)));
            assert_eq!(upload.gone(LATER), Some(Rejection::Removed));
            let last = &upload.news()[told..];
            assert!(matches!(last, [Event { kind: EventKind::Removed, .. }]), "{last:?}");
            assert_eq!((last[0].details.by, last[0].stage), (Some(by), Stage::Completed));

            let after = upload.clone();
            assert_eq!(upload.remove(by, LATER), Err(Rejection::Removed));
            assert_eq!(upload.delete_for_operator(LATER), Err(Rejection::Removed));
            assert_eq!(upload.terminate(DeletedBy::Client, LATER), Err(Rejection::Removed));
            assert_eq!(upload, after);
            assert_eq!(upload.report(report("hls", 50), LATER), Ok(Reported::Changed), "a backend may not be done yet");
        }
    }

    #[test]
    fn an_operator_deletes_whatever_the_stage() {
        let mut open = new_upload(Some(10), Role::Single);
        assert_eq!(open.delete_for_operator(NOW), Ok(()));
        assert_eq!(open.stage(), Stage::Ended(Ended::Terminated));
        assert_eq!(open.news().last().unwrap().details.by, Some(DeletedBy::Operator));
        assert_eq!(open.delete_for_operator(NOW), Err(Rejection::Gone(Ended::Terminated)));

        let mut late = new_upload(Some(10), Role::Single);
        assert_eq!(late.terminate(DeletedBy::Client, LATER), Err(Rejection::Gone(Ended::Expired)));
        assert_eq!(late.delete_for_operator(LATER), Ok(()));
        assert_eq!(late.stage(), Stage::Ended(Ended::Expired));

        let mut resting = new_upload(Some(0), Role::Partial);
        resting.seal(vec![], NOW).unwrap();
        assert_eq!(resting.delete_for_operator(NOW), Ok(()));
        assert_eq!(resting.stage(), Stage::Ended(Ended::Terminated));

        let mut done = completed();
        assert_eq!(done.delete_for_operator(NOW), Ok(()));
        assert_eq!(done.record().removed, Some(Removal { at: NOW, by: DeletedBy::Operator }));
    }

    #[test]
    fn missing_bytes_are_noted_until_they_are_back_or_nobody_needs_them() {
        let mut upload = completed().committed();
        assert!(upload.bytes_are_missing(LATER) && !upload.bytes_are_missing(LATER));
        assert_eq!((upload.gone(LATER), upload.missing_change()), (Some(Rejection::BytesMissing), 1));
        assert_eq!((upload.stage(), upload.news().len()), (Stage::Completed, 0));
        let mut upload = upload.committed();
        assert_eq!(upload.missing_change(), 0);
        let mut back = upload.clone();
        assert!(back.bytes_are_back(LATER) && !back.bytes_are_back(LATER));
        assert_eq!((back.gone(LATER), back.missing_change()), (None, -1));

        upload.remove(DeletedBy::Operator, LATER).unwrap();
        assert_eq!((upload.record().missing_since, upload.missing_change()), (None, -1));
        assert!(!upload.bytes_are_missing(LATER), "nobody needs them any more");
    }

    fn report(name: &str, percent: u64) -> NewReport {
        NewReport::new(name.to_owned(), Some(percent), None).unwrap()
    }

    #[test]
    fn reports_are_told_and_kept_in_the_order_they_first_came() {
        let mut upload = new_upload(Some(0), Role::Single);
        upload.seal(vec![], NOW).unwrap();
        assert_eq!(upload.report(report("b", 1), NOW), Ok(Reported::Changed));
        upload.verify(NOW);
        upload.store(NOW);
        upload.complete(NOW);
        let soon = Timestamp::from_unix_ms(NOW.unix_ms() + 10);
        assert_eq!(upload.report(report("a", 2), soon), Ok(Reported::Changed));
        assert_eq!(upload.report(report("b", 3), soon), Ok(Reported::Changed));
        assert_eq!(upload.report(report("b", 3), LATER), Ok(Reported::Unchanged));

        let kept = upload.record().reports.iter().map(|report| (report.name.as_str(), report.percent, report.at));
        assert_eq!(kept.collect::<Vec<_>>(), [("b", Some(3), soon), ("a", Some(2), soon)]);
        assert_eq!((upload.stage(), upload.record().updated_at), (Stage::Completed, soon));
        use EventKind::*;
        assert_eq!(kinds(&upload), [Created, Received, Processing, Verified, Stored, Completed, Processing]);
        let told =
            upload.news().iter().filter_map(|event| event.details.report.as_ref().map(|report| report.name.as_str()));
        assert_eq!(told.collect::<Vec<_>>(), ["b", "a"], "and the second word on b was too soon after the first");
        assert!(upload.news().iter().map(|event| event.sequence).eq(1..=7));

        assert_eq!(upload.report(report("b", 4), LATER), Ok(Reported::Changed));
        assert_eq!(kinds(&upload).len(), 8);
    }

    #[test]
    fn reports_are_taken_from_the_last_byte_until_the_end() {
        let refused = |upload: &Upload, now| upload.clone().report(report("a", 1), now).err();
        let mut upload = new_upload(Some(10), Role::Partial);
        assert_eq!(refused(&upload, NOW), Some(ReportRefused::TooEarly(Stage::Created)));
        upload.receive(durable(0, 4), None, NOW).unwrap();
        assert_eq!(refused(&upload, NOW), Some(ReportRefused::TooEarly(Stage::Receiving)));
        upload.stall(NOW);
        assert_eq!(refused(&upload, NOW), Some(ReportRefused::TooEarly(Stage::Stalled)));
        upload.receive(durable(4, 10), None, NOW).unwrap();
        upload.seal(vec![], NOW).unwrap();
        assert_eq!(refused(&upload, NOW), None);
        assert_eq!(refused(&upload, LATER), Some(ReportRefused::Ended(Ended::Expired)));
        upload.terminate(DeletedBy::Client, NOW).unwrap();
        let before = upload.clone();
        assert_eq!(upload.report(report("a", 1), NOW), Err(ReportRefused::Ended(Ended::Terminated)));
        assert_eq!(upload, before);
    }

    #[test]
    fn an_upload_has_a_bounded_number_of_reported_stages() {
        let mut upload = new_upload(Some(0), Role::Single);
        upload.seal(vec![], NOW).unwrap();
        for number in 0..MAX_STAGES {
            assert_eq!(upload.report(report(&format!("stage-{number}"), 1), NOW), Ok(Reported::Changed));
        }
        assert_eq!(upload.report(report("another", 1), NOW), Err(ReportRefused::TooMany));
        assert_eq!(upload.report(report("stage-0", 100), NOW), Ok(Reported::Changed), "those that are there go on");
    }

    #[test]
    fn a_partial_rests_at_received_and_expires() {
        let mut upload = new_upload(Some(0), Role::Partial);
        upload.seal(vec![], NOW).unwrap();
        assert!(upload.is_settled());
        assert!(!upload.is_expired(NOW));
        assert!(upload.is_expired(LATER));
    }

    #[test]
    fn progress_is_told_seldom() {
        let policy = Some(ProgressPolicy { every: Duration::from_secs(5), min_bytes: 8 << 20 });
        let at = |s: i64| Timestamp::from_unix_ms(NOW.unix_ms() + s * 1_000);
        let mut upload = new_upload(Some(1_000), Role::Single);
        upload.receive(durable(0, 1), policy, at(0)).unwrap();
        upload.receive(durable(1, 500), policy, at(4)).unwrap();
        upload.receive(durable(500, 501), policy, at(5)).unwrap();
        upload.receive(durable(501, 505), policy, at(11)).unwrap();
        upload.receive(durable(505, 511), policy, at(12)).unwrap();
        let progress: Vec<_> = upload.news().iter().filter(|e| e.kind == EventKind::Progress).collect();
        assert_eq!(progress.iter().map(|event| event.offset.get()).collect::<Vec<_>>(), [501, 511]);
    }

    /// A move in the life of an upload. Anyone may ask for most of them at any time; the others are made by whoever has
    /// read where the upload stands.
    fn live(upload: &mut Upload, choice: u8, now: Timestamp) {
        match (choice, upload.stage()) {
            (0, _) => {
                let at = upload.offset();
                if upload.check_append(at, Some(3), LIMIT, now).is_ok() {
                    upload.receive(durable(at.get(), at.get() + 3), None, now).unwrap();
                }
                if upload.is_full() && upload.stage().takes_bytes() {
                    upload.seal(vec![], now).unwrap();
                }
            }
            (1, _) => upload.stall(now),
            (2, _) => {
                let _ = upload.terminate(DeletedBy::Client, now);
            }
            (3, _) => {
                let _ = upload.report(report("hls", now.unix_ms().unsigned_abs() % 101), now);
            }
            (4, _) if upload.is_expired(now) => upload.expire(now),
            (5, _) if !upload.owns_bytes() => upload.bytes_removed(now),
            (7, _) => {
                let _ = upload.delete_for_operator(now);
            }
            (8, Stage::Completed) => {
                let _ = upload.remove(DeletedBy::Retention, now);
            }
            (6, Stage::Received | Stage::Verified | Stage::Stored) => {
                upload.fail(Failure { code: "broken".to_owned(), message: "it broke".to_owned(), status: None }, now);
            }
            (_, Stage::Received) if !upload.is_partial() => upload.verify(now),
            (_, Stage::Verified) => upload.store(now),
            (_, Stage::Stored) => upload.complete(now),
            _ => {}
        }
    }

    /// webhooks G8: whatever is asked for, and however often.
    #[test]
    fn nothing_follows_an_end() {
        use EventKind::*;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let moves = prop::collection::vec((0_u8..16, 1_i64..1_500_000), 1..60);
        let (mut lasts, mut behind_completed) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        for life in 0..2_000 {
            let role = if life % 4 == 0 { Role::Partial } else { Role::Single };
            let mut upload = new_upload(Some(6), role);
            let mut now = NOW;
            let moves = moves.new_tree(&mut runner).unwrap().current();
            for (choice, ms) in &moves {
                now = Timestamp::from_unix_ms(now.unix_ms() + ms);
                live(&mut upload, *choice, now);
            }
            let kinds = kinds(&upload);
            let is_end = |kind: &EventKind| matches!(kind, Failed | Expired | Terminated);
            let end = kinds.iter().position(is_end);
            assert!(end.is_none_or(|end| end + 1 == kinds.len()), "{kinds:?} after {moves:?}");
            assert_eq!(end.is_some(), matches!(upload.stage(), Stage::Ended(_)));
            let behind: Vec<_> = kinds.iter().skip_while(|kind| **kind != Completed).skip(1).copied().collect();
            assert!(
                behind.iter().all(|kind| matches!(kind, Processing | Terminated | Removed)),
                "{kinds:?} after {moves:?}"
            );
            let behind_removed: Vec<_> = kinds.iter().skip_while(|kind| **kind != Removed).skip(1).collect();
            assert!(behind_removed.iter().all(|kind| **kind == Processing), "{kinds:?} after {moves:?}");
            assert_eq!(kinds.contains(&Removed), upload.record().removed.is_some());
            lasts.extend(kinds.last().copied());
            behind_completed.extend(behind);
        }
        assert!([Failed, Expired, Terminated, Completed].iter().all(|kind| lasts.contains(kind)), "{lasts:?}");
        assert_eq!(behind_completed.len(), 3, "the lives were too short: {behind_completed:?}");
    }

    proptest! {
        #[test]
        fn any_split_into_appends_gives_the_same_upload(cuts in prop::collection::vec(1_u64..100, 1..20)) {
            let total: u64 = cuts.iter().sum();
            let mut whole = new_upload(Some(total), Role::Single);
            whole.receive(durable(0, total), None, NOW).unwrap();
            let mut split = new_upload(Some(total), Role::Single);
            let mut at = 0;
            for count in cuts {
                prop_assert_eq!(split.check_append(offset(at), Some(count), LIMIT, NOW), Ok(()));
                split.receive(durable(at, at + count), None, NOW).unwrap();
                at += count;
                prop_assert_eq!(split.offset().get(), at);
            }
            prop_assert_eq!(&split.record().received, &whole.record().received);
            prop_assert_eq!(&split.record().timeline, &whole.record().timeline);
            prop_assert_eq!(kinds(&split), kinds(&whole));
        }
    }
}
