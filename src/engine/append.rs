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

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use storage::BlobWriter;
use storage::Resume;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::domain::checksum::Digest;
use crate::domain::rejection::Rejection;
use crate::domain::size::Length;
use crate::domain::size::Offset;
use crate::domain::upload::Durable;
use crate::domain::upload::Failure;
use crate::domain::upload::Stage;
use crate::domain::upload::Upload;
use crate::engine::Engine;
use crate::engine::Inner;
use crate::engine::blob_key;
use crate::engine::command::Append;
use crate::engine::command::BodyEnd;
use crate::engine::command::Ends;
use crate::engine::command::EngineError;
use crate::engine::command::Overflow;
use crate::engine::command::Place;
use crate::engine::command::Unavailable;
use crate::engine::digest::Hasher;
use crate::engine::digest::Running;
use crate::engine::feed::Fed;
use crate::engine::feed::Feed;
use crate::engine::feed::Intake;
use crate::engine::lease::Held;
use crate::engine::lease::Order;
use crate::engine::lease::RateMeter;
use crate::engine::settle::unless_failed;

/// The first bytes are committed, and so announced, this soon.
const FIRST_CHECKPOINT_AFTER: Duration = Duration::from_millis(100);

/// After telling an offset to somebody who asked, nothing more is committed for this long: if it was the client coming
/// back, its next append finds the offset it was told, whatever the old connection still delivers.
const HOLD_AFTER_INSPECTION: Duration = Duration::from_secs(1);

impl Engine {
    /// Begins an append. Whatever can be refused without seeing the bytes is refused here, and changes nothing.
    pub async fn append(&self, command: Append) -> Result<Feed, EngineError> {
        let inner = &self.0;
        inner.check_open_for_business()?;
        // One that takes over a live upload adds none.
        let one_more = inner.leases.live(command.id).is_none();
        if one_more && inner.leases.count() >= inner.settings.max_active_uploads {
            return Err(EngineError::Unavailable(Unavailable::Busy));
        }
        let held = match inner.leases.try_take(command.id) {
            Some(held) => held,
            None => {
                let at = inner.admit(inner.find(command.id).await?, &command)?.offset();
                inner.leases.take(command.id, Some(at), inner.settings.takeover_timeout).await?
            }
        };
        let upload = inner.admit(inner.find(command.id).await?, &command)?;
        let at = upload.offset();
        let known_bytes = at.get() - command.place.offset().get();
        let count = command.count.map(|count| count.saturating_sub(known_bytes));
        if count != Some(0) {
            inner.check_room_for(&upload, count.unwrap_or(0)).await?;
        }
        let (feed, intake) = Feed::new(inner.pool.clone(), at.get(), count, Arc::clone(&held.progress));
        let feed = feed.passing_over(known_bytes);
        let writer = Writer::new(Arc::clone(inner), held, upload, command)?;
        self.spawn(async move {
            let Intake { pieces, outcome } = intake;
            // A caller that is gone needs no answer.
            let _ = outcome.send(writer.run(pieces).await);
        });
        Ok(feed)
    }
}

impl Inner {
    /// The upload with what this append declares, if the append is in order.
    fn admit(&self, mut upload: Upload, command: &Append) -> Result<Upload, Rejection> {
        let (now, max_bytes) = (self.expiry_now(), self.settings.max_upload_bytes);
        let (start, count) = match command.place {
            Place::At(at) => (at, command.count),
            Place::From(from) if from > upload.offset() => (from, command.count),
            Place::From(from) => {
                let known_bytes = upload.offset().get() - from.get();
                (upload.offset(), command.count.map(|count| count.saturating_sub(known_bytes)))
            }
        };
        upload.check_append(start, Some(0), max_bytes, now)?;
        if upload.dialect() != command.dialect && !self.settings.cross_dialects {
            return Err(Rejection::OtherDialect(upload.dialect()));
        }
        if let Some(length) = command.length {
            upload.declare_length(length, max_bytes)?;
        }
        if let (Ends::Here, Some(count)) = (command.ends, command.count) {
            self.check_end(&mut upload, command.place.offset().plus(count))?;
        }
        upload.check_append(start, count, max_bytes, now)?;
        upload.promise(&command.promised_digests);
        Ok(upload)
    }

    /// Whether an upload may end at `end`; if no length is known yet, this is it.
    fn check_end(&self, upload: &mut Upload, end: Option<Offset>) -> Result<(), Rejection> {
        let max_bytes = self.settings.max_upload_bytes;
        let end = end.ok_or(Rejection::OverLimit(max_bytes))?;
        match upload.length() {
            Some(length) if length.get() == end.get() => Ok(()),
            Some(length) => Err(Rejection::EndsElsewhere { length, end }),
            None => upload.declare_length(Length::new(end.get()).ok_or(Rejection::OverLimit(max_bytes))?, max_bytes),
        }
    }
}

/// One append while it runs.
struct Writer {
    inner: Arc<Inner>,
    held: Held,
    /// As committed, but for a length declared by this request.
    upload: Upload,
    /// Opened when the first byte comes.
    blob: Option<Box<dyn BlobWriter>>,
    digests: Running,
    ends: Ends,
    overflow: Overflow,
    /// Of this request: what it should be, and what it is so far.
    checksum: Option<(Digest, Hasher)>,
    /// Everything below is handed to the blob writer.
    accepted: Offset,
    pending: Option<Pending>,
    /// When the bytes not yet covered by a checkpoint began to gather.
    gathering_since: Instant,
    bytes_came_at: Instant,
    /// How far the latest checkpoint reaches.
    covered: Offset,
    hold_until: Instant,
    inspectors: Vec<oneshot::Sender<()>>,
    meter: RateMeter,
}

/// A checkpoint on its way: first durable, then committed.
struct Pending {
    commit: BoxFuture<'static, Result<Upload, EngineError>>,
    /// Set once the commit is handed to the state store and can no longer be called back.
    committing: Arc<AtomicBool>,
}

#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack; boxing would allocate for nothing")]
enum Step {
    Order(Order),
    Stop,
    Committed(Result<Upload, EngineError>),
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
    /// A newer request takes over.
    Yield(oneshot::Sender<Result<(), Offset>>),
    Stop,
    Error(EngineError),
}

impl Writer {
    fn new(inner: Arc<Inner>, held: Held, upload: Upload, command: Append) -> Result<Self, EngineError> {
        let record = upload.record();
        let digests = Running::resume(&record.wanted_digests, &record.running_digests)
            .map_err(|source| EngineError::Failed { operation: "resume the digests", source: Box::new(source) })?;
        let offset = upload.offset();
        held.progress.accept(offset.get());
        let now = Instant::now();
        Ok(Self {
            inner,
            held,
            blob: None,
            digests,
            ends: command.ends,
            overflow: command.overflow,
            checksum: command.checksum.map(|expected| (expected.clone(), Hasher::start(expected.algorithm()))),
            accepted: offset,
            pending: None,
            gathering_since: now,
            bytes_came_at: now,
            covered: offset,
            hold_until: now,
            inspectors: Vec::new(),
            meter: RateMeter::start(offset.get()),
            upload,
        })
    }

    async fn run(mut self, mut fed: mpsc::Receiver<Fed>) -> Result<Upload, EngineError> {
        let ending = self.receive(&mut fed).await;
        drop(fed);
        // Boxed: it takes six times what receiving does, and thousands may be receiving.
        Box::pin(self.end(ending)).await
    }

    async fn end(mut self, ending: Ending) -> Result<Upload, EngineError> {
        match ending {
            Ending::Body(end) => self.conclude(end).await,
            Ending::Stop => {
                self.conclude(BodyEnd::Cut).await?;
                Err(EngineError::Unavailable(Unavailable::ShuttingDown))
            }
            Ending::Yield(answer) => {
                tracing::info!(upload = %self.upload.id(), offset = self.upload.offset().get(), "a newer request takes over");
                self.abandon().await;
                // The newer request waits for the lease anyway.
                let _ = answer.send(Ok(()));
                Err(EngineError::Unavailable(Unavailable::Superseded))
            }
            Ending::Error(error) => {
                self.abandon().await;
                let overflow =
                    matches!(error, EngineError::Rejected(Rejection::BeyondLength(_) | Rejection::OverLimit(_)));
                if overflow && self.overflow == Overflow::Fatal {
                    self.fail_for_overflow().await?;
                } else {
                    self.drop_leftovers().await;
                }
                Err(error)
            }
        }
    }

    /// Takes in what comes until there is a reason to stop.
    async fn receive(&mut self, fed: &mut mpsc::Receiver<Fed>) -> Ending {
        // A cut is concluded only when the hold is over: until then a newer request may come for the told offset.
        let mut cut = false;
        loop {
            if cut && self.pending.is_none() && Instant::now() >= self.hold_until {
                return Ending::Body(BodyEnd::Cut);
            }
            let done = match self.next_step(fed, cut).await {
                Step::Stop => return Ending::Stop,
                Step::Fed(Some(Fed::End)) => return Ending::Body(BodyEnd::Complete),
                Step::Fed(None) => {
                    cut = true;
                    Ok(())
                }
                Step::Fed(Some(Fed::Piece(piece))) => self.take(piece).await,
                Step::Due(Duty::EndHold) => Ok(()),
                Step::Due(Duty::Checkpoint) => self.start_checkpoint().await,
                Step::Due(Duty::Stall) => {
                    self.start_stall();
                    Ok(())
                }
                Step::Committed(committed) => self.on_committed(committed),
                Step::Order(Order::Checkpoint(done)) => self.on_inspection(done).await,
                Step::Order(Order::Yield { at, answer }) => match self.on_yield(at).await {
                    Ok(Ok(())) => return Ending::Yield(answer),
                    Ok(Err(ours)) => {
                        // Whoever asked may have gone.
                        let _ = answer.send(Err(ours));
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = done {
                return Ending::Error(error);
            }
        }
    }

    async fn next_step(&mut self, fed: &mut mpsc::Receiver<Fed>, cut: bool) -> Step {
        let duty = self.next_duty(cut);
        let Self { inner, held, pending, .. } = self;
        let is_pending = pending.is_some();
        let committed = async {
            match pending {
                Some(pending) => (&mut pending.commit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(order) = held.orders.recv() => Step::Order(order),
            () = inner.stop.cancelled() => Step::Stop,
            committed = committed, if is_pending => Step::Committed(committed),
            duty = come(duty), if duty.is_some() && !is_pending => Step::Due(duty),
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
        let at = self.accepted.get();
        self.inner.metrics.bytes_received.inc_by(piece.len() as u64);
        self.blob().await?.write(at, piece).await.map_err(EngineError::storage)?;
        self.accepted = end;
        self.held.progress.accept(self.accepted.get());
        if let Some(rate) = self.meter.observe(self.accepted.get()) {
            self.held.progress.set_rate(rate);
        }
        let gathered = self.accepted.get() - self.covered.get();
        let large = gathered >= self.inner.settings.checkpoint_bytes;
        if large && self.may_checkpoint() && Instant::now() >= self.hold_until {
            self.start_checkpoint().await?;
        }
        Ok(())
    }

    /// The offset after `count` more bytes, if they may be there.
    fn room_for(&self, count: u64) -> Result<Offset, Rejection> {
        let end = self.accepted.plus(count);
        match self.upload.length() {
            Some(length) => end.filter(|end| length.admits(*end)).ok_or(Rejection::BeyondLength(length)),
            None => {
                let max_bytes = self.inner.settings.max_upload_bytes;
                end.filter(|end| end.get() <= max_bytes).ok_or(Rejection::OverLimit(max_bytes))
            }
        }
    }

    async fn blob(&mut self) -> Result<&mut Box<dyn BlobWriter>, EngineError> {
        if self.blob.is_none() {
            let opened = open_blob(&self.inner, &self.upload).await?;
            self.blob = Some(opened);
        }
        Ok(self.blob.as_mut().expect("it was opened just now"))
    }

    /// Whether a checkpoint in the middle of the request is allowed and free to start. The bytes of a request with a
    /// checksum count all together or not at all. The last byte is committed only together with the seal, once the
    /// body has ended: a full upload that is not sealed would be nobody's to finish.
    fn may_checkpoint(&self) -> bool {
        self.checksum.is_none() && self.pending.is_none() && self.accepted > self.covered && !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.upload.length().is_some_and(|length| length.is_reached_by(self.accepted))
    }

    fn checkpoint_due(&self) -> Option<Instant> {
        let silent = matches!(self.upload.stage(), Stage::Created | Stage::Stalled);
        let every = self.inner.settings.checkpoint_every;
        let after = if silent { FIRST_CHECKPOINT_AFTER.min(every) } else { every };
        // Many slow uploads take turns: what each could lose is little, and so are the bytes a sync of each would keep.
        let crowd = self.inner.leases.count() as f64 / f64::from(self.inner.settings.checkpoint_rate);
        let after = if crowd > 1.0 { every.mul_f64(crowd) } else { after };
        self.may_checkpoint().then(|| (self.gathering_since + after).max(self.hold_until))
    }

    fn next_duty(&self, cut: bool) -> Option<(Instant, Duty)> {
        if cut {
            return Some((self.hold_until, Duty::EndHold));
        }
        if let Some(due) = self.checkpoint_due() {
            return Some((due, Duty::Checkpoint));
        }
        let at_rest = self.pending.is_none() && self.accepted == self.upload.offset();
        let may_stall = at_rest && self.upload.stage() == Stage::Receiving;
        may_stall.then(|| (self.bytes_came_at + self.inner.settings.stall_after, Duty::Stall))
    }

    fn start_stall(&mut self) {
        let mut next = self.upload.clone();
        let inner = Arc::clone(&self.inner);
        let commit = Box::pin(async move {
            next.stall(inner.now());
            inner.commit(next).await
        });
        self.pending = Some(Pending { commit, committing: Arc::new(AtomicBool::new(true)) });
    }

    async fn start_checkpoint(&mut self) -> Result<(), EngineError> {
        // The room that must be kept is for the database too: stop while this can still be written down.
        self.inner.check_room_to_go_on(&self.upload).await?;
        let pending = self.checkpoint(false).await?;
        self.pending = Some(pending);
        Ok(())
    }

    /// Makes everything accepted so far durable and commits it, sealing the upload if `seal`.
    async fn checkpoint(&mut self, seal: bool) -> Result<Pending, EngineError> {
        let durable = self.blob().await?.checkpoint().await.map_err(EngineError::storage)?;
        self.covered = self.accepted;
        let (start, end) = (self.upload.offset(), self.accepted);
        let digests = self.digests.clone();
        let mut next = self.upload.clone();
        let inner = Arc::clone(&self.inner);
        let committing = Arc::new(AtomicBool::new(false));
        let handed_over = Arc::clone(&committing);
        let commit = Box::pin(async move {
            let resume = durable.await.map_err(EngineError::storage)?.into_bytes();
            handed_over.store(true, Ordering::Relaxed);
            let now = inner.now();
            let expires_at = inner.expires_at(now);
            let running_digests = digests.state();
            next.receive(Durable { start, end, running_digests, resume, expires_at }, inner.settings.progress, now);
            if seal {
                inner.seal(&mut next, digests, now).await?;
            }
            inner.commit(next).await
        });
        Ok(Pending { commit, committing })
    }

    fn on_committed(&mut self, committed: Result<Upload, EngineError>) -> Result<(), EngineError> {
        self.pending = None;
        self.upload = committed?;
        self.held.progress.commit(self.upload.offset().get());
        self.gathering_since = Instant::now();
        if !self.inspectors.is_empty() {
            self.hold_until = Instant::now() + HOLD_AFTER_INSPECTION;
        }
        for inspector in self.inspectors.drain(..) {
            // Whoever asked may have gone.
            let _ = inspector.send(());
        }
        Ok(())
    }

    async fn on_inspection(&mut self, done: oneshot::Sender<()>) -> Result<(), EngineError> {
        let now = Instant::now();
        let nothing_new = self.pending.is_none() && !self.may_checkpoint();
        if now < self.hold_until || nothing_new {
            if nothing_new {
                self.hold_until = self.hold_until.max(now + HOLD_AFTER_INSPECTION);
            }
            // Whoever asked may have gone.
            let _ = done.send(());
            return Ok(());
        }
        self.inspectors.push(done);
        if self.pending.is_none() { self.start_checkpoint().await } else { Ok(()) }
    }

    /// Whether this writer ends for a request that wants to go on at `at`; if not, the offset it would have to name.
    async fn on_yield(&mut self, at: Option<Offset>) -> Result<Result<(), Offset>, EngineError> {
        self.await_commit_under_way().await?;
        let ours = self.upload.offset();
        Ok(if at.is_none_or(|at| at == ours) { Ok(()) } else { Err(ours) })
    }

    /// Waits for a commit that can no longer be called back. One that still waits for the disk is left alone.
    async fn await_commit_under_way(&mut self) -> Result<(), EngineError> {
        if let Some(pending) = self.pending.take_if(|pending| pending.committing.load(Ordering::Relaxed)) {
            let committed = pending.commit.await;
            self.on_committed(committed)?;
        }
        Ok(())
    }

    /// Ends without committing more.
    async fn abandon(&mut self) {
        if let Err(error) = self.await_commit_under_way().await {
            tracing::warn!(upload = %self.upload.id(), error = %error, "the last checkpoint of an append that ended was not committed");
        }
        self.pending = None;
        if let Some(blob) = self.blob.take() {
            blob.close().await;
        }
    }

    /// Gives the room of uncommitted bytes back at once, not only when the upload goes on.
    async fn drop_leftovers(&mut self) {
        if let Err(error) = self.cut_to_committed().await {
            tracing::debug!(upload = %self.upload.id(), error = %error, "could not drop uncommitted bytes; the next append will");
        }
    }

    /// Ends the upload of a client that has sent more than the upload can have.
    async fn fail_for_overflow(&mut self) -> Result<(), EngineError> {
        let mut upload = self.inner.find(self.upload.id()).await?;
        let message = "more data arrived than the upload can have".to_owned();
        upload.fail(Failure { code: "too-long".to_owned(), message }, self.inner.now());
        let failed = self.inner.commit(upload).await?;
        self.inner.remove_bytes(failed).await;
        Ok(())
    }

    /// What this writer knows may be behind: a commit may have been done although its answer was lost.
    async fn cut_to_committed(&mut self) -> Result<(), EngineError> {
        let upload = self.inner.find(self.upload.id()).await?;
        if upload.stage().takes_bytes() {
            open_blob(&self.inner, &upload).await?.close().await;
        }
        Ok(())
    }

    /// Keeps what arrived, and carries a full upload through to its end.
    async fn conclude(mut self, end: BodyEnd) -> Result<Upload, EngineError> {
        if let Some((expected, hasher)) = self.checksum.take() {
            // tus 1.0, Checksum: bytes that do not match, or not all of them, leave no trace.
            let cut = end == BodyEnd::Cut;
            if cut || hasher.finish() != expected {
                self.abandon().await;
                self.drop_leftovers().await;
                return if cut {
                    Ok(self.upload)
                } else {
                    Err(Rejection::ChecksumMismatch(expected.algorithm()).into())
                };
            }
        }
        if let Err(error) = self.commit_rest(end).await {
            self.abandon().await;
            self.drop_leftovers().await;
            return Err(error);
        }
        if let Some(blob) = self.blob.take() {
            blob.close().await;
        }
        let Self { inner, held, upload, .. } = self;
        tracing::debug!(upload = %upload.id(), offset = upload.offset().get(), cut = end == BodyEnd::Cut, "append ended");
        let settled = inner.settle(upload).await.and_then(unless_failed);
        drop(held);
        settled
    }

    /// Whether the upload is complete with what has arrived.
    fn find_end(&mut self, end: BodyEnd) -> Result<bool, Rejection> {
        if self.ends == Ends::Here && end == BodyEnd::Complete && self.upload.stage().takes_bytes() {
            self.inner.check_end(&mut self.upload, Some(self.accepted))?;
            return Ok(true);
        }
        let by_itself = self.ends == Ends::WhenFull || self.upload.dialect().completes_when_full();
        Ok(by_itself && self.is_full())
    }

    async fn commit_rest(&mut self, end: BodyEnd) -> Result<(), EngineError> {
        if let Some(pending) = self.pending.take() {
            let committed = pending.commit.await;
            self.on_committed(committed)?;
        }
        match self.find_end(end) {
            Ok(completes) => self.commit_last(end, completes).await,
            // What arrived stays: it is a correct beginning.
            Err(rejection) => self.commit_last(end, false).await.and(Err(rejection.into())),
        }
    }

    async fn commit_last(&mut self, end: BodyEnd, completes: bool) -> Result<(), EngineError> {
        if self.accepted > self.upload.offset() {
            let last = self.checkpoint(completes).await?;
            let committed = last.commit.await;
            return self.on_committed(committed);
        }
        let nothing_new = end == BodyEnd::Cut && !completes;
        if nothing_new || !self.upload.stage().takes_bytes() {
            return Ok(());
        }
        let now = self.inner.now();
        let mut next = self.upload.clone();
        next.touch(self.inner.expires_at(now), now);
        if completes {
            self.inner.seal(&mut next, self.digests.clone(), now).await?;
        }
        let committed = self.inner.commit(next).await;
        self.on_committed(committed)
    }
}

/// Waits until the time of a duty has come.
async fn come(duty: Option<(Instant, Duty)>) -> Duty {
    match duty {
        Some((at, duty)) => {
            tokio::time::sleep_until(at).await;
            duty
        }
        None => std::future::pending().await,
    }
}

async fn open_blob(inner: &Inner, upload: &Upload) -> Result<Box<dyn BlobWriter>, EngineError> {
    let resume = upload.record().resume.clone().map(Resume::from_bytes);
    let size_bytes = upload.length().map(|length| length.get());
    inner.blobs.open(&blob_key(upload.id()), resume.as_ref(), size_bytes).await.map_err(EngineError::storage)
}
