//! The only place that makes the bytes of an upload durable and commits them.
//!
//! A `Committer` is the part of a writer that holds the lease, the upload as committed, the blob it writes
//! to, and the one checkpoint that may be under way. The `ledger` decides which bytes a checkpoint covers.
//!
//! Three rules hold:
//!
//! - A failure here is `WriterBroken`: it ends the writer for every request that depends on it.
//! - An upload is sealed only if its record is full, including the bytes of the commit that seals it.
//! - If an upload completes when it is full, no other commit fills its record: no task would be left to seal
//!   it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use storage::BlobWriter;
use tokio::sync::{oneshot, watch};

use crate::Inner;
use crate::blobs::{current_key, current_resume, epoch_of};
use crate::command::{EngineError, Unavailable};
use crate::fence::FenceWatch;
use crate::handover::{self, Handover};
use crate::lease::LeaseGuard;
use crate::progress::{RateMeter, WriterProgress};
use crate::writer_requests::WriterRequest;
use domain::checksum::Digest;
use domain::failure::Failure;
use domain::principal::TenantScope;
use domain::rejection::Rejection;
use domain::size::Length;
use domain::stage::Ended;
use domain::time::Timestamp;
use domain::upload::{DurableBytes, InconsistentChange, PendingDeclarations, Upload};

/// A failure after which the writer cannot write or commit any more. Bytes it has not committed are lost.
#[derive(Debug, Clone)]
pub(super) struct WriterBroken(EngineError);

impl WriterBroken {
    pub(super) fn storage(source: storage::Error) -> Self {
        Self(EngineError::storage(source))
    }

    pub(super) fn inconsistent(source: InconsistentChange) -> Self {
        Self(EngineError::inconsistent(source))
    }
}

impl From<EngineError> for WriterBroken {
    fn from(error: EngineError) -> Self {
        Self(error)
    }
}

impl From<WriterBroken> for EngineError {
    fn from(broken: WriterBroken) -> Self {
        broken.0
    }
}

pub(super) struct Committer {
    pub(super) inner: Arc<Inner>,
    held: LeaseGuard<WriterRequest>,
    handover: watch::Receiver<Handover>,
    contact: FenceWatch,
    /// The upload as committed.
    pub(super) upload: Upload,
    /// Declarations of the requests under way that are not committed. They are committed with the next bytes.
    declared: PendingDeclarations,
    /// Opened when the first byte arrives.
    blob: Option<Box<dyn BlobWriter>>,
    /// The offset of the upload at which the blob begins.
    base: u64,
    pending: Option<PendingCheckpoint>,
    meter: RateMeter,
    /// Requests for a checkpoint that wait for its commit.
    inspectors: Vec<oneshot::Sender<()>>,
}

/// A checkpoint under way: the bytes become durable first, then they are committed.
struct PendingCheckpoint {
    commit: BoxFuture<'static, Result<Upload, EngineError>>,
    /// Set once the commit is handed to the state store and can no longer be canceled.
    committing: Arc<AtomicBool>,
}

/// The content of a checkpoint's commit. Without ranges, no bytes become durable, and only declarations and
/// the state of the digests are committed.
pub(super) struct CheckpointScope {
    /// The bytes that count from now on, as `(start, end)`, end excluded.
    pub(super) ranges: Vec<(u64, u64)>,
    /// The state of the digests including these bytes.
    pub(super) running_digests: Vec<u8>,
    /// The digests of the complete upload, as far as they are known; `None` if it is not complete with these
    /// bytes.
    pub(super) seal: Option<Vec<Digest>>,
}

/// Wake-ups of a writer other than bytes and timers.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack; boxing would allocate for nothing")]
pub(super) enum WriterWakeup {
    Request(WriterRequest),
    /// This node stops, or hands over its uploads.
    Stop(Unavailable),
    /// The node has lost contact with the state.
    Fenced,
    Committed(Result<Upload, EngineError>),
}

impl Committer {
    pub(super) fn new(inner: Arc<Inner>, held: LeaseGuard<WriterRequest>, upload: Upload, contact: FenceWatch) -> Self {
        held.progress.accept(upload.received_bytes());
        held.publish_progress();
        let meter = RateMeter::start(upload.received_bytes());
        let (handover, declared) = (inner.handover.subscribe(), PendingDeclarations::default());
        let inspectors = Vec::new();
        Self { inner, held, handover, contact, upload, declared, blob: None, base: 0, pending: None, meter, inspectors }
    }

    /// Returns the upload with the declarations that are not committed yet.
    pub(super) fn declared_upload(&self) -> Upload {
        let mut upload = self.upload.clone();
        upload.apply_declarations(&self.declared);
        upload
    }

    /// Keeps the declarations that `view` adds to the committed upload. Reports whether they have changed.
    pub(super) fn declare(&mut self, view: &Upload) -> bool {
        let declared = view.declared_since(&self.upload);
        let is_new = declared != self.declared;
        self.declared = declared;
        is_new
    }

    /// Returns the length of the upload, committed or declared.
    pub(super) fn length(&self) -> Option<Length> {
        self.upload.length().or(self.declared.length)
    }

    /// Waits for a request, for the shutdown, or for the end of the checkpoint under way. The future may be
    /// dropped and created again.
    pub(super) async fn next_wakeup(&mut self) -> WriterWakeup {
        let Self { inner, held, handover, contact, pending, .. } = self;
        let committed = async {
            match pending {
                Some(pending) => (&mut pending.commit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(request) = held.requests.recv() => WriterWakeup::Request(request),
            () = inner.stop.cancelled() => WriterWakeup::Stop(Unavailable::ShuttingDown),
            reason = handover::under_way(handover) => WriterWakeup::Stop(reason),
            () = contact.closed() => WriterWakeup::Fenced,
            committed = committed => WriterWakeup::Committed(committed),
        }
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    pub(super) async fn write(&mut self, at: u64, bytes: Bytes) -> Result<(), WriterBroken> {
        let (blob, base) = self.blob().await?;
        blob.write(at - base, bytes).await.map_err(WriterBroken::storage)
    }

    /// Waits until all bytes written so far can be read back. This does not make them count.
    pub(super) async fn land(&mut self) -> Result<(), WriterBroken> {
        let end = self.upload.reach().get();
        let (blob, base) = self.blob().await?;
        let promise = blob.checkpoint(end - base).await.map_err(WriterBroken::storage)?;
        promise.await.map(drop).map_err(WriterBroken::storage)
    }

    /// Records the total number of bytes received from clients, for readers of the progress.
    pub(super) fn note_progress(&mut self, accepted_bytes: u64, new_bytes: u64) {
        self.inner.metrics.bytes_received.inc_by(new_bytes);
        self.held.progress.accept(accepted_bytes);
        if let Some(rate) = self.meter.observe(accepted_bytes) {
            self.held.progress.set_rate(rate);
        }
    }

    /// Keeps the blob open for the next request. Returns false if no blob is open, if this is disabled, or if
    /// too many uploads are parked.
    pub(super) fn park(&self) -> bool {
        !self.inner.settings.writer.keep_open.is_zero() && self.blob.is_some() && self.held.park()
    }

    /// Counts as a writer again.
    pub(super) fn unpark(&self) {
        self.held.unpark();
    }

    pub(super) fn progress(&self) -> Arc<WriterProgress> {
        Arc::clone(&self.held.progress)
    }

    /// Returns the open blob and the offset of the upload at which it begins. Opens it if necessary.
    async fn blob(&mut self) -> Result<(&mut Box<dyn BlobWriter>, u64), WriterBroken> {
        if self.blob.is_none() {
            if !self.inner.abilities.takes_over {
                // Boxed: few stores need it.
                Box::pin(self.begin_generation()).await?;
            }
            let opened = open_blob(&self.inner, &self.upload, self.length()).await.map_err(WriterBroken)?;
            self.base = self.upload.generations().start();
            self.blob = Some(opened);
        }
        Ok((self.blob.as_mut().expect("it was opened just now"), self.base))
    }

    async fn begin_generation(&mut self) -> Result<(), WriterBroken> {
        self.await_pending().await?;
        self.upload = self.inner.begin_generation(self.upload.clone()).await?;
        Ok(())
    }

    /// Begins a checkpoint. `goes_on` says that more bytes may follow it.
    pub(super) async fn begin(&mut self, scope: CheckpointScope, goes_on: bool) -> Result<(), WriterBroken> {
        // The reserve of disk space is also for the database: stop while a record can still be written. Bytes
        // that have arrived are kept in any case.
        if goes_on {
            self.inner.check_space_to_resume(&self.upload).await.map_err(WriterBroken)?;
        }
        self.pending = Some(self.checkpoint(scope).await?);
        Ok(())
    }

    /// Makes a last checkpoint and waits for it.
    pub(super) async fn commit_last(&mut self, scope: CheckpointScope) -> Result<(), WriterBroken> {
        let last = self.checkpoint(scope).await?;
        let committed = last.commit.await;
        self.on_committed(committed)
    }

    /// Makes all bytes written so far durable if `scope` has ranges, and commits `scope`.
    async fn checkpoint(&mut self, scope: CheckpointScope) -> Result<PendingCheckpoint, WriterBroken> {
        // A client that keeps sending must not extend the lifetime of its upload.
        if self.inner.is_past_lifetime(&self.upload) {
            return Err(WriterBroken(Rejection::Gone(Ended::Expired).into()));
        }
        let reach = self.upload.reach().get();
        let durable = match scope.ranges.iter().map(|(_, end)| *end).max() {
            None => None,
            Some(end) => {
                let (blob, base) = self.blob().await?;
                Some(blob.checkpoint(end.max(reach) - base).await.map_err(WriterBroken::storage)?)
            }
        };
        let mut next = self.declared_upload();
        let inner = Arc::clone(&self.inner);
        let committing = Arc::new(AtomicBool::new(false));
        let handed_over = Arc::clone(&committing);
        let commit = Box::pin(async move {
            let CheckpointScope { ranges, running_digests, seal } = scope;
            let resume = match durable {
                Some(durable) => Some(durable.await.map_err(EngineError::storage)?.into_bytes()),
                None => None,
            };
            handed_over.store(true, Ordering::Relaxed);
            let now = inner.now();
            let expires_at = inner.expires_at(next.record().created_at, now);
            match resume {
                Some(resume) => {
                    let durable = DurableBytes { ranges, running_digests, resume, expires_at };
                    next.receive(durable, inner.progress_policy(), now).map_err(EngineError::inconsistent)?;
                }
                None => next.touch(running_digests, expires_at, now),
            }
            match seal {
                Some(digests) => inner.seal(&mut next, digests, now).await?,
                None if next.awaits_seal() => return Err(EngineError::inconsistent(InconsistentChange::Unsealed)),
                None => {}
            }
            inner.commit(next).await
        });
        Ok(PendingCheckpoint { commit, committing })
    }

    /// Begins to commit that the state of the digests is unknown. Commits neither bytes nor declarations.
    pub(super) fn begin_forgetting_digests(&mut self) {
        let expires_at = self.inner.expires_at(self.upload.record().created_at, self.inner.now());
        self.begin_change(move |next, now| next.touch(Vec::new(), expires_at, now));
    }

    /// Begins to commit that the upload is stalled. Declarations made meanwhile wait for bytes.
    pub(super) fn begin_stall(&mut self) {
        self.begin_change(Upload::stall);
    }

    fn begin_change(&mut self, change: impl FnOnce(&mut Upload, Timestamp)) {
        let mut next = self.inner.extended(self.upload.clone());
        change(&mut next, self.inner.now());
        let inner = Arc::clone(&self.inner);
        let commit = Box::pin(async move { inner.commit(next).await });
        self.pending = Some(PendingCheckpoint { commit, committing: Arc::new(AtomicBool::new(true)) });
    }

    pub(super) fn on_committed(&mut self, committed: Result<Upload, EngineError>) -> Result<(), WriterBroken> {
        self.pending = None;
        self.upload = committed.map_err(WriterBroken)?;
        self.declared.drop_recorded(&self.upload);
        self.held.progress.commit(self.upload.offset().get());
        for inspector in self.inspectors.drain(..) {
            // The caller may have gone away.
            let _ = inspector.send(());
        }
        Ok(())
    }

    pub(super) fn has_inspectors(&self) -> bool {
        !self.inspectors.is_empty()
    }

    /// Notifies `done` after the next commit.
    pub(super) fn inspect_after_commit(&mut self, done: oneshot::Sender<()>) {
        self.inspectors.push(done);
    }

    /// Waits for the checkpoint under way, if there is one.
    pub(super) async fn await_pending(&mut self) -> Result<(), WriterBroken> {
        if let Some(pending) = self.pending.take() {
            let committed = pending.commit.await;
            self.on_committed(committed)?;
        }
        Ok(())
    }

    /// Waits for a commit that can no longer be canceled. A checkpoint that still waits for the disk
    /// continues unaffected.
    pub(super) async fn await_commit_under_way(&mut self) -> Result<(), WriterBroken> {
        if let Some(pending) = self.pending.take_if(|pending| pending.committing.load(Ordering::Relaxed)) {
            let committed = pending.commit.await;
            self.on_committed(committed)?;
        }
        Ok(())
    }

    /// Ends without committing further bytes.
    pub(super) async fn abandon(&mut self) {
        if let Err(WriterBroken(error)) = self.await_commit_under_way().await {
            tracing::warn!(upload = %self.upload.id(), error = %error, "could not commit the last checkpoint of an append");
        }
        self.pending = None;
        self.close().await;
    }

    /// Waits until no write is under way any more.
    pub(super) async fn close(&mut self) {
        if let Some(blob) = self.blob.take() {
            blob.close().await;
        }
    }

    /// Ends after a failure, without the uncommitted bytes. Returns the error for the clients of the writer:
    /// a failure that follows from a takeover by another node is reported as the takeover.
    pub(super) async fn fail(&mut self, error: EngineError) -> EngineError {
        let still_holds = self.drop_leftovers().await;
        if still_holds || !matches!(error, EngineError::Failed { .. }) {
            return error;
        }
        let error = &error as &dyn std::error::Error;
        tracing::info!(upload = %self.upload.id(), error, "another node has taken over an upload");
        EngineError::Unavailable(Unavailable::Superseded)
    }

    /// Frees the disk space of uncommitted bytes at once, not only when the upload is resumed. Returns false
    /// if this node is known to hold the upload no longer.
    pub(super) async fn drop_leftovers(&mut self) -> bool {
        self.cut_to_committed().await.unwrap_or_else(|error| {
            tracing::debug!(upload = %self.upload.id(), error = %error, "could not truncate uncommitted bytes; the \
                                                                         next append will do it");
            true
        })
    }

    /// Reads the record again first: a commit may have succeeded although its answer was lost. Reports
    /// whether this node still holds the upload.
    async fn cut_to_committed(&mut self) -> Result<bool, EngineError> {
        let upload = self.inner.find(TenantScope::All, self.upload.id()).await?;
        let still_holds = self.still_holds(&upload);
        if !still_holds {
            self.inner.drop_strays(&self.upload).await;
        }
        if upload.stage().takes_bytes() && still_holds {
            if !self.inner.abilities.takes_over && !upload.has_sole_writer() {
                // It continues in another blob.
                return Ok(true);
            }
            // The bytes of a commit that may still take effect stay until a new epoch excludes it.
            let upload = self.inner.own(upload).await?;
            open_blob(&self.inner, &upload, upload.length()).await?.close().await;
        }
        Ok(still_holds)
    }

    /// Reports whether no other node has taken over the upload.
    fn still_holds(&self, found: &Upload) -> bool {
        found.record().lease == self.upload.record().lease
    }

    /// Fails the upload of a client that has sent more than the upload can have.
    pub(super) async fn fail_for_overflow(&mut self) -> Result<(), EngineError> {
        let mut upload = self.inner.find(TenantScope::All, self.upload.id()).await?;
        if !self.still_holds(&upload) {
            return Err(EngineError::Unavailable(Unavailable::Superseded));
        }
        let message = "more data arrived than the upload can have".to_owned();
        upload.fail(Failure { code: "too-long".to_owned(), message, rejection: None }, self.inner.now());
        let failed = self.inner.commit(upload).await?;
        self.inner.remove_bytes(failed).await;
        Ok(())
    }

    /// Ends the writer, but keeps the lease.
    pub(super) fn into_parts(self) -> (Arc<Inner>, LeaseGuard<WriterRequest>, Upload) {
        (self.inner, self.held, self.upload)
    }
}

async fn open_blob(inner: &Inner, upload: &Upload, length: Option<Length>) -> Result<Box<dyn BlobWriter>, EngineError> {
    let (key, resume) = (current_key(upload), current_resume(upload));
    let size_bytes = length.map(|length| length.get().saturating_sub(upload.generations().start()));
    match inner.blobs.open(&key, epoch_of(upload), resume.as_ref(), size_bytes).await {
        Ok(blob) => Ok(blob),
        Err(error) => Err(inner.explain(upload, error).await),
    }
}
