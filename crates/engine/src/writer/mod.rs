//! The writer: the one task that writes the bytes of an upload.
//!
//! A writer holds the lease of an upload, its blob and its digests, and takes the bytes of every request to
//! it. Bytes in order come from one [`JoinedRequest`] with a strict cursor, bytes in any order from several
//! at once. All requests share one writer, one version to commit, and one sync. The writer ends when the
//! upload is whole, when no request is left and none arrives within `keep_open`, when a newer request takes
//! over, at the shutdown, or after a failure.
//!
//! The caller pushes bytes into a [`Feed`]. A caller that disappears, as a request handler does when its peer
//! resets the connection, is an ordinary ending: bytes that have arrived are kept, made durable and
//! committed.
//!
//! - A write, a sync or a commit that fails ends every request: the bytes it was to cover are in no record,
//!   whichever request brought them.
//! - A rejected request in any order keeps the bytes it has brought so far. A rejected request in order
//!   leaves no bytes beyond the committed ones.
//! - A request is answered with the record after the commit that covers its bytes.
//!
//! A crash at any point leaves a consistent state:
//! - Before a checkpoint is durable: the bytes are above the committed offset, or in no committed range, and
//!   were reported to no client.
//! - Durable but not committed: the same; the next writer drops them.
//! - Committed: the record covers the bytes, and its events are in the log.
//! - Sealed but not settled: the sweeper completes the upload at the next start.

mod ending;
mod intake;
mod timing;

pub use timing::WriterSettings;

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Inner;
use crate::admission::Admitted;
use crate::command::{Append, EngineError, Overflow, Unavailable};
use crate::commit::{Committer, WriterBroken, WriterWakeup};
use crate::feed::{Feed, FeedItem};
use crate::fence::FenceWatch;
use crate::joined_request::JoinedRequest;
use crate::lease::LeaseGuard;
use crate::ledger::Ledger;
use crate::upload_digests::UploadDigests;
use crate::writer_requests::{NotJoined, WriterRequest};
use domain::hook::Caller;
use domain::rejection::Rejection;
use domain::size::Offset;
use domain::upload::{InconsistentChange, Upload};
use ending::Ending;
use intake::next_fed;
use timing::{TimedTask, wait_until_due};

/// The writer of an upload while requests fill it.
pub(super) struct Writer {
    ledger: Ledger,
    upload_digests: UploadDigests,
    /// At most one where bytes come in order.
    requests: Vec<JoinedRequest>,
    /// The index of the request that is polled first for bytes.
    turn: usize,
    /// The caller of the latest request.
    caller: Option<Arc<Caller>>,
    bytes_came_at: Instant,
    hold_until: Instant,
    /// Set while no request sends and the upload is only kept open.
    parked_since: Option<Instant>,
}

/// The reason why a request cannot continue.
#[derive(Debug)]
pub(super) enum RequestFailure {
    /// The request is rejected. The other requests and the upload are unaffected.
    Rejected(EngineError),
    /// The request was cut before its checksum could match. It is not rejected, but its bytes do not count.
    BroughtNothing,
    /// The writer ends, with all its requests.
    Broken(WriterBroken),
}

impl From<Rejection> for RequestFailure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection.into())
    }
}

impl From<WriterBroken> for RequestFailure {
    fn from(broken: WriterBroken) -> Self {
        Self::Broken(broken)
    }
}

#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack; boxing would allocate for nothing")]
enum WriterStep {
    Wakeup(WriterWakeup),
    FeedItem(usize, Option<FeedItem>),
    Due(TimedTask),
}

impl Writer {
    /// Creates a writer for the holder of the lease of `upload`, which is the committed record. `contact` was
    /// watched when the record was read.
    pub(super) async fn open(
        inner: &Arc<Inner>,
        held: LeaseGuard<WriterRequest>,
        upload: Upload,
        contact: FenceWatch,
    ) -> Result<Self, EngineError> {
        let upload_digests = UploadDigests::resume(inner, &upload).await?;
        let now = Instant::now();
        Ok(Self {
            ledger: Ledger::new(Committer::new(Arc::clone(inner), held, upload, contact)),
            upload_digests,
            requests: Vec::new(),
            turn: 0,
            caller: None,
            bytes_came_at: now,
            hold_until: now,
            parked_since: None,
        })
    }

    /// Adds an admitted request, unless too many are open or the disk space does not suffice.
    pub(super) async fn add(&mut self, command: &Append, admitted: Admitted) -> Result<Feed, EngineError> {
        let inner = Arc::clone(&self.ledger.committer.inner);
        let Admitted { upload, start, known_bytes, count } = admitted;
        let in_order = self.upload_digests.is_in_order();
        if count != Some(0) {
            let open = self.requests.iter().filter(|request| request.is_open()).count();
            if !in_order && open >= inner.settings.ranges.max_parallel {
                return Err(EngineError::Unavailable(Unavailable::Busy));
            }
            inner.check_space_for(&upload, count.unwrap_or(0)).await?;
        }
        let is_new = self.ledger.committer.declare(&upload);
        let mut end = None;
        if in_order {
            self.requests.reserve_exact(1);
            // The hold protected the offset reported to a client that queried it; this request is the next
            // one.
            self.hold_until = Instant::now();
        } else {
            end = count.map(|count| start.saturating_add(count));
            self.ledger.other_changes |= is_new;
            self.supersede(|request| request.claims(start, end.unwrap_or(start)));
        }
        if self.requests.is_empty() {
            self.bytes_came_at = Instant::now();
        }
        self.parked_since = None;
        self.ledger.committer.unpark();
        self.caller.clone_from(&command.caller);
        let (feed, intake) = Feed::new(inner.pool.clone(), start, count, self.ledger.committer.progress());
        self.requests.push(JoinedRequest::new(command, intake, start, end));
        Ok(feed.passing_over(known_bytes))
    }

    /// Checks a further request and adds it, if this writer can take it.
    async fn join(&mut self, command: &Append) -> Result<Feed, NotJoined> {
        if self.upload_digests.is_in_order() && !self.requests.is_empty() {
            return Err(NotJoined::InOrder);
        }
        let committer = &self.ledger.committer;
        let upload = committer.inner.extended(committer.declared_upload());
        let admitted = committer.inner.admit(upload, command, &self.ledger.there, self.taken());
        let admitted = admitted.map_err(|rejection| NotJoined::Rejected(rejection.into()))?;
        self.add(command, admitted).await.map_err(NotJoined::Rejected)
    }

    /// Returns the end of the last byte accepted from a request, whether it counts or not.
    fn taken(&self) -> Offset {
        let staged =
            self.requests.iter().flat_map(|request| request.checked.iter().map(|checked| checked.staged.end()));
        staged.filter_map(Offset::new).fold(self.ledger.there.end(), Offset::max)
    }

    /// Ends requests that a newer one replaces. Their bytes that count are kept.
    fn supersede(&mut self, is_stale: impl Fn(&JoinedRequest) -> bool) {
        for request in self.requests.extract_if(.., |request| is_stale(request)) {
            request.answer(Err(EngineError::Unavailable(Unavailable::Superseded)));
        }
    }

    /// Answers all requests at once: a commit that is under way may take long to fail.
    fn fence(&mut self) -> Ending {
        let lost = EngineError::Unavailable(Unavailable::Fenced);
        for request in self.requests.drain(..) {
            request.answer(Err(lost.clone()));
        }
        Ending::Broken(lost.into())
    }

    pub(super) async fn run(mut self) {
        let ending = self.receive().await;
        let stopped_by = ending.reason_of_stop();
        let completes = self.completes_when_full();
        let requests = std::mem::take(&mut self.requests);
        // Boxed: it takes far more memory than receiving does, and thousands may be receiving.
        Box::pin(async move {
            let inner = Arc::clone(&self.ledger.committer.inner);
            let outcome = self.end(ending, completes).await;
            ending::answer(&inner, requests, &outcome, stopped_by).await;
        })
        .await;
    }

    /// Handles requests, bytes and timers until there is a reason to stop.
    async fn receive(&mut self) -> Ending {
        loop {
            match self.do_pending_work().await {
                Ok(true) => return Ending::Over,
                Ok(false) => {}
                Err(broken) => return Ending::Broken(broken),
            }
            let done = match self.next_step().await {
                WriterStep::Wakeup(WriterWakeup::Stop(reason)) => return Ending::Stop(reason),
                WriterStep::Wakeup(WriterWakeup::Fenced) => return self.fence(),
                WriterStep::Wakeup(WriterWakeup::Committed(committed)) => self.on_committed(committed),
                // Its sender has gone away: an abandoned request must not end requests whose clients are
                // present.
                WriterStep::Wakeup(WriterWakeup::Request(received)) if received.is_abandoned() => Ok(()),
                WriterStep::Wakeup(WriterWakeup::Request(WriterRequest::Checkpoint(done))) => {
                    self.on_inspection(done).await
                }
                WriterStep::Wakeup(WriterWakeup::Request(WriterRequest::Join { command, answer })) => {
                    // Boxed: it takes more memory than sending bytes does. If the caller has gone away, its
                    // request ends without a byte.
                    let _ = answer.send(Box::pin(self.join(&command)).await);
                    Ok(())
                }
                WriterStep::Wakeup(WriterWakeup::Request(WriterRequest::Yield { at, end_notice, answer })) => {
                    match Box::pin(self.on_yield(at)).await {
                        Ok(Ok(())) => return Ending::Yield(answer, end_notice),
                        Ok(Err(ours)) => {
                            // The caller may have gone away.
                            let _ = answer.send(Err(ours));
                            Ok(())
                        }
                        Err(broken) => Err(broken),
                    }
                }
                WriterStep::FeedItem(index, item) => match self.take(index, item).await {
                    Ok(()) => Ok(()),
                    Err(RequestFailure::Rejected(error)) => return self.ending_for(error),
                    Err(RequestFailure::BroughtNothing) => return Ending::Undone(Ok(())),
                    Err(RequestFailure::Broken(broken)) => Err(broken),
                },
                WriterStep::Due(TimedTask::Checkpoint) => self.start_checkpoint().await,
                WriterStep::Due(TimedTask::Stall) => {
                    self.ledger.committer.begin_stall();
                    Ok(())
                }
                WriterStep::Due(TimedTask::EndHold) => Ok(()),
                WriterStep::Due(TimedTask::Leave) => return Ending::Over,
            };
            if let Err(broken) = done {
                return Ending::Broken(broken);
            }
        }
    }

    /// Returns how the writer ends when its only request is rejected.
    fn ending_for(&self, error: EngineError) -> Ending {
        let overflows = matches!(error, EngineError::Rejected(Rejection::BeyondLength(_) | Rejection::OverLimit(_)));
        let is_fatal = self.requests.iter().any(|request| request.overflow == Overflow::Fatal);
        if overflows && is_fatal { Ending::Overflow(error) } else { Ending::Undone(Err(error)) }
    }

    async fn next_step(&mut self) -> WriterStep {
        let task = self.next_timed_task();
        let Self { ledger, requests, turn, .. } = self;
        tokio::select! {
            biased;
            call = ledger.committer.next_wakeup() => WriterStep::Wakeup(call),
            task = wait_until_due(task) => WriterStep::Due(task),
            (index, item) = next_fed(requests, turn) => WriterStep::FeedItem(index, item),
        }
    }

    /// Does the work that is due now: answers requests, begins a checkpoint, parks. Reports whether the
    /// writer is at its end.
    async fn do_pending_work(&mut self) -> Result<bool, WriterBroken> {
        self.check_covered()?;
        let is_whole = self.is_whole();
        if is_whole && !self.requests.iter().any(|request| self.delays_the_end(request)) {
            return Ok(true);
        }
        if self.commit_is_wanted() {
            self.start_checkpoint().await?;
        }
        let done = self.ledger.done();
        let is_anyone_left = self.requests.iter().any(|request| !request.is_covered(done));
        if !is_anyone_left && !self.ledger.committer.is_pending() && !self.park() {
            return Ok(true);
        }
        // The requests of a whole upload are answered when it is completed, or has failed.
        if !is_whole {
            self.answer_covered();
        }
        Ok(false)
    }

    async fn start_checkpoint(&mut self) -> Result<(), WriterBroken> {
        let goes_on = self.requests.iter().any(JoinedRequest::is_open);
        self.ledger.start_checkpoint(self.upload_digests.state(), goes_on).await?;
        self.upload_digests.on_begun();
        Ok(())
    }

    fn on_committed(&mut self, committed: Result<Upload, EngineError>) -> Result<(), WriterBroken> {
        if self.ledger.committer.has_inspectors() {
            self.hold();
        }
        self.ledger.on_committed(committed)?;
        self.upload_digests.on_committed();
        Ok(())
    }

    async fn await_pending(&mut self) -> Result<(), WriterBroken> {
        self.ledger.await_pending().await?;
        self.upload_digests.on_committed();
        Ok(())
    }

    /// Checks that the record covers the bytes of all requests that are about to be answered.
    fn check_covered(&self) -> Result<(), WriterBroken> {
        let (done, received) = (self.ledger.done(), &self.ledger.committer.upload.record().received);
        for request in self.requests.iter().filter(|request| request.is_covered(done)) {
            if !received.has_all(request.start, request.at) {
                return Err(WriterBroken::inconsistent(InconsistentChange::NotReceived {
                    start: request.start,
                    end: request.at,
                }));
            }
        }
        Ok(())
    }

    /// Answers the requests whose bytes are all committed.
    fn answer_covered(&mut self) {
        let (done, upload) = (self.ledger.done(), &self.ledger.committer.upload);
        for request in self.requests.extract_if(.., |request| request.is_covered(done)) {
            request.answer(Ok(upload.clone()));
        }
    }

    async fn on_inspection(&mut self, done: oneshot::Sender<()>) -> Result<(), WriterBroken> {
        let is_pending = self.ledger.committer.is_pending();
        let nothing_new = !is_pending && !self.may_commit();
        if nothing_new || self.is_held() {
            if nothing_new {
                self.hold();
            }
            // The caller may have gone away.
            let _ = done.send(());
            return Ok(());
        }
        self.ledger.committer.inspect_after_commit(done);
        if is_pending { Ok(()) } else { self.start_checkpoint().await }
    }

    /// Decides whether this writer ends for a request that wants to resume at `at`; if not, returns the
    /// committed offset. A request that has sent all its bytes is not ended: it is committed and answered
    /// first.
    async fn on_yield(&mut self, at: Option<Offset>) -> Result<Result<(), Offset>, WriterBroken> {
        if self.requests.iter().any(JoinedRequest::is_done) {
            self.await_pending().await?;
            if self.commit_is_wanted() {
                self.start_checkpoint().await?;
                self.await_pending().await?;
            }
            self.check_covered()?;
            if !self.is_whole() {
                self.answer_covered();
            }
        } else {
            self.ledger.await_commit_under_way().await?;
            if !self.ledger.committer.is_pending() {
                self.upload_digests.on_committed();
            }
        }
        let ours = self.ledger.committer.upload.offset();
        Ok(if at.is_none_or(|at| at == ours) { Ok(()) } else { Err(ours) })
    }
}
