//! The only loop in the program that moves upload bytes.
//!
//! The caller pumps bytes into a [`Feed`]; a task of the engine's own holds the lease, the blob writer and the
//! digests, and commits. So a caller that vanishes, as a request handler does when its peer resets the connection,
//! is an ordinary ending: what arrived is kept, made durable and committed.
//!
//! What if it dies here?
//! - Before a checkpoint is durable: the bytes are above the committed offset and nobody was told of them.
//! - Durable but not committed: the same; the next writer drops them.
//! - Committed: the truth, with the events it caused.
//! - Sealed but not settled: the sweeper carries on at the next start.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::command::{Append, BodyEnd, Ends, EngineError, Overflow, Place, Unavailable};
use crate::commit::{Broken, Call, Committer, Covering};
use crate::digest::{Hasher, Running};
use crate::feed::{Fed, Feed, Intake};
use crate::hooks::Behalf;
use crate::orders::{Fate, NotJoined, Order};
use crate::settle::unless_failed;
use crate::{Engine, Inner};
use domain::checksum::Digest;
use domain::hook::Caller;
use domain::rejection::Rejection;
use domain::size::{Length, Offset};
use domain::stage::Stage;
use domain::upload::Upload;

/// The first bytes are committed, and so announced, this soon.
const FIRST_CHECKPOINT_AFTER: Duration = Duration::from_millis(100);

/// After telling an offset to somebody who asked, nothing more is committed for this long: if it was the client coming
/// back, its next append finds the offset it was told, whatever the old connection still delivers.
const HOLD_AFTER_INSPECTION: Duration = Duration::from_secs(1);

/// What beginning an append comes to.
pub(super) enum Begun {
    Feeding(Feed),
    /// The upload takes bytes in any order: ask for the place `at`.
    InAnyOrder(Offset),
    /// The upload takes bytes in order only.
    InOrder,
    /// The upload takes no more bytes: those of this request are compared with its own.
    Repeating,
}

impl Engine {
    /// Begins an append. Whatever can be refused without seeing the bytes is refused here, and changes nothing.
    pub async fn append(&self, command: Append) -> Result<Feed, EngineError> {
        // Boxed: it takes four times what sending bytes does, and its caller may send for hours.
        Box::pin(self.begin(command)).await
    }

    async fn begin(&self, mut command: Append) -> Result<Feed, EngineError> {
        let inner = &self.0;
        inner.check_open_for_business()?;
        // One that takes over a live upload adds none.
        let one_more = inner.leases.live(command.id).is_none();
        if one_more && inner.leases.count() >= inner.settings.max_active_uploads {
            return Err(EngineError::Unavailable(Unavailable::Busy));
        }
        loop {
            let begun = match command.place {
                Place::Anywhere(at) => self.begin_anywhere(&command, at).await?,
                Place::At(_) | Place::From(_) => self.begin_in_order(&command).await?,
            };
            match begun {
                Begun::Feeding(feed) => return Ok(feed),
                Begun::InAnyOrder(at) => command.place = Place::Anywhere(at),
                Begun::InOrder => command.place = Place::From(command.place.offset()),
                Begun::Repeating => return self.begin_comparing(&command).await,
            }
        }
    }

    async fn begin_in_order(&self, command: &Append) -> Result<Begun, EngineError> {
        let inner = &self.0;
        if let Some(parked) = inner.leases.resume(command.id).await {
            return match inner.admit(inner.extended(parked.committer.upload.clone()), command) {
                Ok(upload) => self.begin_with(parked, upload, command).await,
                Err(rejection) => {
                    self.spawn(parked.wait());
                    Err(rejection.into())
                }
            };
        }
        let held = match inner.leases.try_take(command.id) {
            Some(held) => held,
            None => {
                let found = inner.find(command.principal.scope(), command.id).await?;
                if command.repeats(&found) {
                    return Ok(Begun::Repeating);
                }
                let upload = inner.admit(found, command)?;
                let at = upload.offset();
                if upload.dialect().takes_any_order() {
                    return Ok(Begun::InAnyOrder(at));
                }
                inner.leases.take(command.id, Some(at), inner.settings.takeover_timeout).await?
            }
        };
        let found = inner.find(command.principal.scope(), command.id).await?;
        if command.repeats(&found) {
            return Ok(Begun::Repeating);
        }
        let upload = inner.admit(found.clone(), command)?;
        if upload.dialect().takes_any_order() {
            return Ok(Begun::InAnyOrder(upload.offset()));
        }
        let digests = inner.running_digests(&found).await?;
        self.begin_with(Parked { committer: Committer::new(Arc::clone(inner), held, found), digests }, upload, command)
            .await
    }

    async fn begin_with(&self, mut parked: Parked, upload: Upload, command: &Append) -> Result<Begun, EngineError> {
        let inner = &self.0;
        let at = upload.offset();
        let known_bytes = at.get() - command.place.offset().get();
        let count = command.count.map(|count| count.saturating_sub(known_bytes));
        if count != Some(0) {
            inner.check_room_for(&upload, count.unwrap_or(0)).await?;
        }
        parked.committer.declare(&upload);
        let (feed, intake) = Feed::new(inner.pool.clone(), at.get(), count, parked.committer.progress());
        let feed = feed.passing_over(known_bytes);
        let writer = Writer::new(parked, command);
        self.spawn(async move {
            let Intake { pieces, outcome } = intake;
            let (ended, parked) = writer.run(pieces).await;
            // A caller that is gone needs no answer.
            let _ = outcome.send(ended);
            if let Some(parked) = parked {
                parked.wait().await;
            }
        });
        Ok(Begun::Feeding(feed))
    }
}

/// An upload whose request is over, kept open a moment for the next one: it finds its file open, its digests running,
/// and nothing to look up.
pub(super) struct Parked {
    committer: Committer,
    digests: Running,
}

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parked").field("upload", &self.committer.upload.id()).finish_non_exhaustive()
    }
}

impl Parked {
    /// Waits for the next request, but not for long.
    async fn wait(mut self) {
        let until = Instant::now() + self.committer.inner.settings.keep_open;
        loop {
            match tokio::time::timeout_at(until, self.committer.call()).await {
                Err(_) | Ok(Call::Stop | Call::Committed(_)) => break,
                Ok(Call::Order(order)) if order.is_given_up() => {}
                Ok(Call::Order(Order::Resume(answer))) => match answer.send(self) {
                    Ok(()) => return,
                    // Whoever asked has gone.
                    Err(parked) => self = parked,
                },
                // In all of these, whoever asked may have gone.
                Ok(Call::Order(Order::Checkpoint(done))) => {
                    let _ = done.send(());
                }
                Ok(Call::Order(Order::Join { answer, .. })) => {
                    let _ = answer.send(Err(NotJoined::InOrder));
                }
                Ok(Call::Order(Order::Yield { at, answer, .. })) => {
                    let ours = self.committer.upload.offset();
                    if at.is_none_or(|at| at == ours) {
                        self.committer.close().await;
                        let _ = answer.send(Ok(()));
                        return;
                    }
                    let _ = answer.send(Err(ours));
                }
            }
        }
        self.committer.close().await;
    }
}

impl Inner {
    /// The upload with what this append declares, if the append is in order.
    fn admit(&self, mut upload: Upload, command: &Append) -> Result<Upload, Rejection> {
        command.check_reach(&upload)?;
        let (now, max_bytes) = (self.now(), self.settings.max_upload_bytes);
        let (start, count) = match command.place {
            Place::From(from) if from <= upload.offset() => {
                let known_bytes = upload.offset().get() - from.get();
                (upload.offset(), command.count.map(|count| count.saturating_sub(known_bytes)))
            }
            Place::At(at) | Place::From(at) | Place::Anywhere(at) => (at, command.count),
        };
        upload.check_append(start, Some(0), max_bytes, now)?;
        let taken = upload.offset();
        self.declare(&mut upload, command, taken)?;
        upload.check_append(start, count, max_bytes, now)?;
        Ok(upload)
    }

    /// Takes what a request says of the whole upload, of which bytes up to `taken` have come, committed or not.
    pub(super) fn declare(&self, upload: &mut Upload, command: &Append, taken: Offset) -> Result<(), Rejection> {
        if upload.dialect() != command.dialect && !self.settings.cross_dialects {
            return Err(Rejection::OtherDialect(upload.dialect()));
        }
        if let Some(length) = command.length {
            upload.declare_length(length, self.settings.max_upload_bytes, taken)?;
        }
        if let (Ends::Here, Some(count)) = (command.ends, command.count) {
            self.check_end(upload, command.place.offset().plus(count), taken)?;
        }
        upload.promise(&command.promised_digests);
        Ok(())
    }

    /// Whether an upload may end at `end`; if no length is known yet, this is it. Bytes up to `taken` have come.
    pub(super) fn check_end(&self, upload: &mut Upload, end: Option<Offset>, taken: Offset) -> Result<(), Rejection> {
        let max_bytes = self.settings.max_upload_bytes;
        let end = end.ok_or(Rejection::OverLimit(max_bytes))?;
        match upload.length() {
            Some(length) if length.get() == end.get() => Ok(()),
            Some(length) => Err(Rejection::EndsElsewhere { length, end }),
            None => {
                let length = Length::new(end.get()).ok_or(Rejection::OverLimit(max_bytes))?;
                upload.declare_length(length, max_bytes, taken)
            }
        }
    }
}

/// One append while it runs.
struct Writer {
    committer: Committer,
    digests: Running,
    ends: Ends,
    overflow: Overflow,
    caller: Option<Arc<Caller>>,
    /// Of this request: what it should be, and what it is so far.
    checksum: Option<(Digest, Hasher)>,
    /// Everything below is handed to the blob writer.
    accepted: Offset,
    /// When the bytes not yet covered by a checkpoint began to gather.
    gathering_since: Instant,
    bytes_came_at: Instant,
    /// How far the latest checkpoint reaches.
    covered: Offset,
    hold_until: Instant,
}

#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack; boxing would allocate for nothing")]
enum Step {
    Call(Call),
    Fed(Option<Fed>),
    Due(Duty),
}

/// What is to be done when its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Checkpoint,
    /// No byte for so long that others should know.
    Stall,
    /// A cut can be concluded.
    EndHold,
}

enum Ending {
    Body(BodyEnd),
    /// A newer request takes over, or ends the upload.
    Yield(oneshot::Sender<Result<(), Offset>>, Option<Fate>),
    Stop,
    Error(EngineError),
}

impl Writer {
    fn new(parked: Parked, command: &Append) -> Self {
        let Parked { committer, digests } = parked;
        committer.unpark();
        let offset = committer.upload.offset();
        let now = Instant::now();
        Self {
            committer,
            digests,
            ends: command.ends,
            overflow: command.overflow,
            caller: command.caller.clone(),
            checksum: command.checksum.clone().map(Hasher::towards),
            accepted: offset,
            gathering_since: now,
            bytes_came_at: now,
            covered: offset,
            hold_until: now,
        }
    }

    async fn run(mut self, mut fed: mpsc::Receiver<Fed>) -> (Result<Upload, EngineError>, Option<Parked>) {
        let ending = self.receive(&mut fed).await;
        drop(fed);
        // Boxed: it takes six times what receiving does, and thousands may be receiving.
        Box::pin(self.end(ending)).await
    }

    async fn end(mut self, ending: Ending) -> (Result<Upload, EngineError>, Option<Parked>) {
        let error = match ending {
            Ending::Body(end) => return self.conclude(end).await,
            Ending::Stop => match self.conclude(BodyEnd::Cut).await.0 {
                Ok(_) => EngineError::Unavailable(Unavailable::ShuttingDown),
                Err(error) => error,
            },
            Ending::Yield(answer, fate) => {
                let upload = &self.committer.upload;
                tracing::info!(upload = %upload.id(), offset = upload.offset().get(), "a newer request takes over");
                self.committer.abandon().await;
                // The newer request waits for the lease anyway.
                let _ = answer.send(Ok(()));
                drop(self);
                Fate::answer_to(fate).await
            }
            Ending::Error(error) => {
                self.committer.abandon().await;
                let overflow =
                    matches!(error, EngineError::Rejected(Rejection::BeyondLength(_) | Rejection::OverLimit(_)));
                if overflow && self.overflow == Overflow::Fatal {
                    self.committer.fail_for_overflow().await.err().unwrap_or(error)
                } else {
                    self.committer.drop_leftovers().await;
                    error
                }
            }
        };
        (Err(error), None)
    }

    /// Takes in what comes until there is a reason to stop.
    async fn receive(&mut self, fed: &mut mpsc::Receiver<Fed>) -> Ending {
        // A cut is concluded only when the hold is over: until then a newer request may come for the told offset.
        let mut cut = false;
        loop {
            if cut && !self.committer.is_pending() && Instant::now() >= self.hold_until {
                return Ending::Body(BodyEnd::Cut);
            }
            let done = match self.next_step(fed, cut).await {
                Step::Call(Call::Stop) => return Ending::Stop,
                Step::Fed(Some(Fed::End)) => return Ending::Body(BodyEnd::Complete),
                Step::Fed(None) => {
                    cut = true;
                    Ok(())
                }
                Step::Fed(Some(Fed::Piece(piece))) => self.take(piece).await,
                Step::Due(Duty::EndHold) => Ok(()),
                Step::Due(Duty::Checkpoint) => self.start_checkpoint().await.map_err(EngineError::from),
                Step::Due(Duty::Stall) => {
                    self.committer.begin_stall();
                    Ok(())
                }
                Step::Call(Call::Committed(committed)) => self.on_committed(committed).map_err(EngineError::from),
                // Nobody waits for it any more, so nothing is held back for their sake.
                Step::Call(Call::Order(order)) if order.is_given_up() => Ok(()),
                Step::Call(Call::Order(Order::Checkpoint(done))) => {
                    self.on_inspection(done).await.map_err(EngineError::from)
                }
                Step::Call(Call::Order(Order::Join { answer, .. })) => {
                    // Whoever asked may have gone.
                    let _ = answer.send(Err(NotJoined::InOrder));
                    Ok(())
                }
                // It came before this request had begun; whoever asked takes the lease in the ordinary way.
                Step::Call(Call::Order(Order::Resume(_))) => Ok(()),
                Step::Call(Call::Order(Order::Yield { at, fate, answer })) => match self.on_yield(at).await {
                    Ok(Ok(())) => return Ending::Yield(answer, fate),
                    Ok(Err(ours)) => {
                        // Whoever asked may have gone.
                        let _ = answer.send(Err(ours));
                        Ok(())
                    }
                    Err(broken) => Err(broken.into()),
                },
            };
            if let Err(error) = done {
                return Ending::Error(error);
            }
        }
    }

    async fn next_step(&mut self, fed: &mut mpsc::Receiver<Fed>, cut: bool) -> Step {
        let duty = self.next_duty(cut);
        tokio::select! {
            biased;
            call = self.committer.call() => Step::Call(call),
            duty = come(duty) => Step::Due(duty),
            item = fed.recv(), if !cut => Step::Fed(item),
        }
    }

    async fn take(&mut self, piece: Bytes) -> Result<(), EngineError> {
        let end = self.room_for(piece.len() as u64)?;
        self.bytes_came_at = Instant::now();
        if self.accepted == self.covered {
            self.gathering_since = self.bytes_came_at;
        }
        self.digests.update(&piece);
        if let Some((_, hasher)) = &mut self.checksum {
            hasher.update(&piece);
        }
        let (at, count) = (self.accepted.get(), piece.len() as u64);
        self.committer.write(at, piece).await?;
        self.accepted = end;
        self.committer.note_progress(self.accepted.get(), count);
        let gathered = self.accepted.get() - self.covered.get();
        let large = gathered >= self.committer.inner.settings.checkpoint_bytes;
        if large && self.may_checkpoint() && Instant::now() >= self.hold_until {
            self.start_checkpoint().await?;
        }
        Ok(())
    }

    /// The offset after `count` more bytes, if they may be there.
    fn room_for(&self, count: u64) -> Result<Offset, Rejection> {
        let end = self.accepted.plus(count);
        match self.committer.length() {
            Some(length) => end.filter(|end| length.admits(*end)).ok_or(Rejection::BeyondLength(length)),
            None => {
                let max_bytes = self.committer.upload.most_bytes(self.committer.inner.settings.max_upload_bytes);
                end.filter(|end| end.get() <= max_bytes).ok_or(Rejection::OverLimit(max_bytes))
            }
        }
    }

    /// Whether a checkpoint in the middle of the request is allowed and free to start. The bytes of a request with a
    /// checksum count all together or not at all. The last byte is committed only together with the seal, once the
    /// body has ended: a full upload that is not sealed would be nobody's to finish.
    fn may_checkpoint(&self) -> bool {
        let free = self.checksum.is_none() && !self.committer.is_pending();
        free && self.accepted > self.covered && !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.committer.length().is_some_and(|length| length.is_reached_by(self.accepted))
    }

    fn next_duty(&self, cut: bool) -> Option<(Instant, Duty)> {
        let upload = &self.committer.upload;
        if cut {
            // What is on its way comes first; its end is waited for anyway.
            return (!self.committer.is_pending()).then_some((self.hold_until, Duty::EndHold));
        }
        if self.may_checkpoint() {
            let due = self.gathering_since + self.committer.inner.checkpoint_after(upload);
            return Some((due.max(self.hold_until), Duty::Checkpoint));
        }
        let at_rest = !self.committer.is_pending() && self.accepted == upload.offset();
        let may_stall = at_rest && upload.stage() == Stage::Receiving;
        may_stall.then(|| (self.bytes_came_at + self.committer.inner.settings.stall_after, Duty::Stall))
    }

    async fn start_checkpoint(&mut self) -> Result<(), Broken> {
        self.committer.begin(self.covering(None)).await?;
        self.covered = self.accepted;
        Ok(())
    }

    /// Everything accepted so far.
    fn covering(&self, seal: Option<Vec<Digest>>) -> Covering {
        let start = self.committer.upload.offset();
        let ranges = if self.accepted > start { vec![(start.get(), self.accepted.get())] } else { Vec::new() };
        Covering { ranges, running_digests: self.digests.state(), seal }
    }

    fn on_committed(&mut self, committed: Result<Upload, EngineError>) -> Result<(), Broken> {
        self.gathering_since = Instant::now();
        if self.committer.has_inspectors() {
            self.hold_until = Instant::now() + HOLD_AFTER_INSPECTION;
        }
        self.committer.on_committed(committed)
    }

    async fn on_inspection(&mut self, done: oneshot::Sender<()>) -> Result<(), Broken> {
        let now = Instant::now();
        let nothing_new = !self.committer.is_pending() && !self.may_checkpoint();
        if now < self.hold_until || nothing_new {
            if nothing_new {
                self.hold_until = self.hold_until.max(now + HOLD_AFTER_INSPECTION);
            }
            // Whoever asked may have gone.
            let _ = done.send(());
            return Ok(());
        }
        self.committer.inspect_after_commit(done);
        if self.committer.is_pending() { Ok(()) } else { self.start_checkpoint().await }
    }

    /// Whether this writer ends for a request that wants to go on at `at`; if not, the offset it would have to name.
    async fn on_yield(&mut self, at: Option<Offset>) -> Result<Result<(), Offset>, Broken> {
        self.committer.await_commit_under_way().await?;
        let ours = self.committer.upload.offset();
        Ok(if at.is_none_or(|at| at == ours) { Ok(()) } else { Err(ours) })
    }

    /// Keeps what arrived, and carries a full upload through to its end. One that goes on is kept open, if it may be.
    async fn conclude(mut self, end: BodyEnd) -> (Result<Upload, EngineError>, Option<Parked>) {
        if let Err(refusal) = self.settle_checksum(end) {
            self.committer.abandon().await;
            self.committer.drop_leftovers().await;
            return (refusal.map_or(Ok(self.committer.upload), |rejection| Err(rejection.into())), None);
        }
        if let Err(error) = self.commit_rest(end).await {
            self.committer.abandon().await;
            self.committer.drop_leftovers().await;
            return (Err(error), None);
        }
        let upload = self.committer.upload.clone();
        tracing::debug!(upload = %upload.id(), offset = upload.offset().get(), cut = end == BodyEnd::Cut, "append ended");
        if end == BodyEnd::Complete && upload.stage().takes_bytes() && self.committer.park() {
            return (Ok(upload), Some(Parked { committer: self.committer, digests: self.digests }));
        }
        self.committer.close().await;
        let (inner, held, upload) = self.committer.into_parts();
        let settled = inner.settle(upload, &Behalf::Client(self.caller)).await.and_then(unless_failed);
        drop(held);
        (settled, None)
    }

    /// Whether the bytes of this request count. tus 1.0, Checksum: bytes that do not match, or not all of them, leave no
    /// trace; a request that was cut is not refused, it only brought nothing.
    fn settle_checksum(&mut self, end: BodyEnd) -> Result<(), Option<Rejection>> {
        let Some((expected, hasher)) = self.checksum.take() else { return Ok(()) };
        match end {
            BodyEnd::Cut => Err(None),
            BodyEnd::Complete if hasher.finish() == expected => Ok(()),
            BodyEnd::Complete => Err(Some(Rejection::ChecksumMismatch(expected.algorithm()))),
        }
    }

    async fn commit_rest(&mut self, end: BodyEnd) -> Result<(), EngineError> {
        self.committer.await_pending().await?;
        match self.find_end(end) {
            Ok(completes) => self.commit_last(end, completes).await,
            // What arrived stays: it is a correct beginning.
            Err(rejection) => self.commit_last(end, false).await.and(Err(rejection.into())),
        }
    }

    /// Whether the upload is complete with what has arrived.
    fn find_end(&mut self, end: BodyEnd) -> Result<bool, Rejection> {
        let upload = &self.committer.upload;
        if self.ends == Ends::Here && end == BodyEnd::Complete && upload.stage().takes_bytes() {
            let mut view = self.committer.declared_upload();
            self.committer.inner.check_end(&mut view, Some(self.accepted), self.accepted)?;
            self.committer.declare(&view);
            return Ok(true);
        }
        let by_itself = self.ends == Ends::WhenFull || upload.dialect().completes_when_full();
        Ok(by_itself && self.is_full())
    }

    async fn commit_last(&mut self, end: BodyEnd, completes: bool) -> Result<(), EngineError> {
        let upload = &self.committer.upload;
        let nothing_new = self.accepted == upload.offset() && end == BodyEnd::Cut && !completes;
        if nothing_new || !upload.stage().takes_bytes() {
            return Ok(());
        }
        let seal = completes.then(|| self.digests.clone().finish());
        let covering = self.covering(seal);
        Ok(self.committer.commit_last(covering).await?)
    }
}

impl Inner {
    /// How long the bytes of a live upload may gather before they are committed.
    pub(super) fn checkpoint_after(&self, upload: &Upload) -> Duration {
        let every = self.settings.checkpoint_every;
        // Many slow uploads take turns: what each could lose is little, and so are the bytes a sync of each would keep.
        let crowd = self.leases.count() as f64 / f64::from(self.settings.checkpoint_rate);
        if crowd > 1.0 {
            return every.mul_f64(crowd);
        }
        match upload.stage() {
            Stage::Created | Stage::Stalled => FIRST_CHECKPOINT_AFTER.min(every),
            Stage::Receiving
            | Stage::Received
            | Stage::Verified
            | Stage::Stored
            | Stage::Completed
            | Stage::Ended(_) => every,
        }
    }
}

/// Waits until the time of a duty has come.
pub(super) async fn come<D>(duty: Option<(Instant, D)>) -> D {
    match duty {
        Some((at, duty)) => {
            tokio::time::sleep_until(at).await;
            duty
        }
        None => std::future::pending().await,
    }
}
