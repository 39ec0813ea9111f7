//! The only place that makes the bytes of an upload durable and commits them.
//!
//! A `Committer` is what a writer has while it holds a lease: the upload as committed, the blob it writes to,
//! and the one checkpoint that may be on its way. What is to be covered is said by the
//! `ledger`.
//!
//! Three rules hold. A failure here is `WriterBroken`: it ends the writer for every request that stands on
//! it. An upload is sealed only if its record, with the bytes of that very commit, is full. And no other
//! commit makes a record full of an upload that then would complete: nobody would be left to seal it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use storage::BlobWriter;
use tokio::sync::oneshot;

use crate::Inner;
use crate::blobs::{current_key, current_resume, epoch_of};
use crate::command::{EngineError, Unavailable};
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

/// A writer that can make nothing more durable or true. Whatever it has not committed is lost.
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
    /// As committed.
    pub(super) upload: Upload,
    /// What the requests under way have declared besides. It becomes true with the next bytes that are
    /// committed.
    declared: PendingDeclarations,
    /// Opened when the first byte comes.
    blob: Option<Box<dyn BlobWriter>>,
    /// Which place of the upload is the beginning of that blob.
    base: u64,
    pending: Option<PendingCheckpoint>,
    meter: RateMeter,
    /// Who asked for what is there to be committed, and waits.
    inspectors: Vec<oneshot::Sender<()>>,
}

/// A checkpoint on its way: first durable, then committed.
struct PendingCheckpoint {
    commit: BoxFuture<'static, Result<Upload, EngineError>>,
    /// Set once the commit is handed to the state store and can no longer be called back.
    committing: Arc<AtomicBool>,
}

/// What a checkpoint is to cover, beside all that is written.
pub(super) struct CheckpointScope {
    /// The bytes that count from now on, as `(start, end)`, end excluded.
    pub(super) ranges: Vec<(u64, u64)>,
    /// The state of the digests with them.
    pub(super) running_digests: Vec<u8>,
    /// The digests of the whole, as far as they are known, if it is whole now.
    pub(super) seal: Option<Vec<Digest>>,
}

/// What happens to a writer by itself.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, on the stack; boxing would allocate for nothing")]
pub(super) enum WriterWakeup {
    Request(WriterRequest),
    Stop,
    Committed(Result<Upload, EngineError>),
}

impl Committer {
    pub(super) fn new(inner: Arc<Inner>, held: LeaseGuard<WriterRequest>, upload: Upload) -> Self {
        held.progress.accept(upload.received_bytes());
        let meter = RateMeter::start(upload.received_bytes());
        let declared = PendingDeclarations::default();
        Self { inner, held, upload, declared, blob: None, base: 0, pending: None, meter, inspectors: Vec::new() }
    }

    /// The upload with what was declared of it and is not committed yet.
    pub(super) fn declared_upload(&self) -> Upload {
        let mut upload = self.upload.clone();
        upload.apply_declarations(&self.declared);
        upload
    }

    /// Keeps what was declared of a copy of the upload. Says whether that is anything new.
    pub(super) fn declare(&mut self, view: &Upload) -> bool {
        let declared = view.declared_since(&self.upload);
        let is_new = declared != self.declared;
        self.declared = declared;
        is_new
    }

    /// The length of the upload, committed or declared.
    pub(super) fn length(&self) -> Option<Length> {
        self.upload.length().or(self.declared.length)
    }

    /// Waits for an order, for the end of all work, or for the checkpoint under way. May be dropped and asked
    /// again.
    pub(super) async fn next_wakeup(&mut self) -> WriterWakeup {
        let Self { inner, held, pending, .. } = self;
        let committed = async {
            match pending {
                Some(pending) => (&mut pending.commit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(request) = held.requests.recv() => WriterWakeup::Request(request),
            () = inner.stop.cancelled() => WriterWakeup::Stop,
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

    /// Waits until everything written so far can be read back. It counts no more than before.
    pub(super) async fn land(&mut self) -> Result<(), WriterBroken> {
        let end = self.upload.reach().get();
        let (blob, base) = self.blob().await?;
        let promise = blob.checkpoint(end - base).await.map_err(WriterBroken::storage)?;
        promise.await.map(drop).map_err(WriterBroken::storage)
    }

    /// Tells how many bytes were taken from clients in all, for those who watch.
    pub(super) fn note_progress(&mut self, accepted_bytes: u64, new_bytes: u64) {
        self.inner.metrics.bytes_received.inc_by(new_bytes);
        self.held.progress.accept(accepted_bytes);
        if let Some(rate) = self.meter.observe(accepted_bytes) {
            self.held.progress.set_rate(rate);
        }
    }

    /// Keeps what is open for the next request, if there is room for that and anything is open.
    pub(super) fn park(&self) -> bool {
        !self.inner.settings.writer.keep_open.is_zero() && self.blob.is_some() && self.held.park()
    }

    /// Writes again.
    pub(super) fn unpark(&self) {
        self.held.unpark();
    }

    pub(super) fn progress(&self) -> Arc<WriterProgress> {
        Arc::clone(&self.held.progress)
    }

    /// The open blob, and which place of the upload is its beginning.
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

    /// Begins a checkpoint; if `goes_on`, in the middle of things.
    pub(super) async fn begin(&mut self, scope: CheckpointScope, goes_on: bool) -> Result<(), WriterBroken> {
        // The room that must be kept is for the database too: stop while this can still be written down. What
        // has arrived is kept in any case.
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

    /// Makes everything written so far durable, and commits what it covers.
    async fn checkpoint(&mut self, scope: CheckpointScope) -> Result<PendingCheckpoint, WriterBroken> {
        // A client that goes on sending must not outlast the time its upload was given.
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

    /// Begins to commit that nothing is known of the digests, without a byte or a word more than is
    /// committed.
    pub(super) fn begin_forgetting_digests(&mut self) {
        let expires_at = self.inner.expires_at(self.upload.record().created_at, self.inner.now());
        self.begin_change(move |next, now| next.touch(Vec::new(), expires_at, now));
    }

    /// Begins to commit that no bytes have come for a while. What was declared meanwhile waits for bytes.
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

    /// Answers when the next commit is done.
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

    /// Waits for a commit that can no longer be called back. One that still waits for the disk is left alone.
    pub(super) async fn await_commit_under_way(&mut self) -> Result<(), WriterBroken> {
        if let Some(pending) = self.pending.take_if(|pending| pending.committing.load(Ordering::Relaxed)) {
            let committed = pending.commit.await;
            self.on_committed(committed)?;
        }
        Ok(())
    }

    /// Ends without committing more.
    pub(super) async fn abandon(&mut self) {
        if let Err(WriterBroken(error)) = self.await_commit_under_way().await {
            tracing::warn!(upload = %self.upload.id(), error = %error, "could not commit the last checkpoint of an append");
        }
        self.pending = None;
        self.close().await;
    }

    /// Waits until nothing written is on its way any more.
    pub(super) async fn close(&mut self) {
        if let Some(blob) = self.blob.take() {
            blob.close().await;
        }
    }

    /// Gives the room of uncommitted bytes back at once, not only when the upload goes on.
    pub(super) async fn drop_leftovers(&mut self) {
        if let Err(error) = self.cut_to_committed().await {
            tracing::debug!(upload = %self.upload.id(), error = %error, "could not truncate uncommitted bytes; the \
                                                                         next append will do it");
        }
    }

    /// What this writer knows may be behind: a commit may have been done although its answer was lost.
    async fn cut_to_committed(&mut self) -> Result<(), EngineError> {
        let upload = self.inner.find(TenantScope::All, self.upload.id()).await?;
        if upload.stage().takes_bytes() && self.still_holds(&upload) {
            open_blob(&self.inner, &upload, upload.length()).await?.close().await;
        }
        Ok(())
    }

    /// Whether no other node has taken the upload over.
    fn still_holds(&self, found: &Upload) -> bool {
        found.record().lease == self.upload.record().lease
    }

    /// Ends the upload of a client that has sent more than the upload can have.
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

    /// Gives up the writer, but not yet the lease.
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
