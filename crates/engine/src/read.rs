//! Reading: status, lists, events, downloads. Reads take no lease, disturb no writer, and show committed rows
//! and the progress of running appends on any node.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use tokio::sync::OwnedSemaphorePermit;

use crate::blobs::current_key;
use crate::command::{EngineError, Unavailable};
use crate::{Engine, Inner};
use domain::id::UploadId;
use domain::principal::Principal;
use domain::rejection::Rejection;
use domain::stage::{Ended, Stage};
use domain::upload::Upload;
use state::ProgressReading;

use domain::log::{EventPage, EventPosition, LoggedEvent};
use domain::query::{UploadPage, UploadQuery};

/// The current state of an upload, with the bytes that a running append has received beyond the committed
/// ones.
#[derive(Debug, Clone)]
pub struct UploadStatus {
    pub upload: Upload,
    /// True if its time has passed and the sweeper has not recorded that yet.
    pub expired: bool,
    pub live: Option<LiveAppend>,
}

impl UploadStatus {
    /// Returns why the upload is gone, if it has ended or expired.
    pub fn gone(&self) -> Option<Rejection> {
        self.upload.ended().or_else(|| self.expired.then_some(Rejection::Gone(Ended::Expired)))
    }
}

/// A page of statuses, newest first.
#[derive(Debug, Clone)]
pub struct StatusPage {
    pub found: Vec<UploadStatus>,
    /// The cursor of the next page, if there may be one.
    pub next: Option<UploadId>,
}

/// The progress of a running append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveAppend {
    /// Bytes received, counted from the start of the upload; those above the offset are not committed yet.
    pub received_bytes: u64,
    /// Smoothed over the last seconds; zero until a rate is measured.
    pub bytes_per_second: u64,
}

/// A bell that rings after a change.
#[derive(Debug)]
pub struct UploadBell(state::Bell);

impl UploadBell {
    /// Waits until the bell has rung since the last call, or until the poll interval in case a ring was
    /// missed.
    pub async fn rung(&mut self) {
        self.0.rung().await;
    }
}

/// The engine's current use of memory and tasks, for all uploads in total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLoad {
    /// Number of leases held, including those of uploads kept open for their next request.
    pub leases: usize,
    /// Number of running tasks, including the sweeper's.
    pub tasks: usize,
    /// Free memory for bytes on their way to the storage.
    pub free_buffer_bytes: usize,
}

/// A completed upload to read from.
#[derive(Debug)]
pub struct Download {
    pub upload: Upload,
    engine: Engine,
}

impl Engine {
    pub fn load(&self) -> EngineLoad {
        let inner = &self.0;
        EngineLoad { leases: inner.leases.held(), tasks: inner.tasks.len(), free_buffer_bytes: inner.pool.free_bytes() }
    }

    /// Returns the status as of the latest commit. [`queries`](crate::queries) may be answered by a copy of
    /// the state.
    pub async fn status(&self, principal: &Principal, id: UploadId) -> Result<UploadStatus, EngineError> {
        self.status_of(id, self.0.find(principal.scope(), id)).await
    }

    /// Returns the status of the upload that `finding` finds.
    pub(crate) async fn status_of(
        &self,
        id: UploadId,
        finding: impl Future<Output = Result<Upload, EngineError>>,
    ) -> Result<UploadStatus, EngineError> {
        // Local counters first: the row read after them is at least as new, so `received` can be raised to
        // it.
        let local = self.0.progress.of(&[id]).await.into_iter().next().flatten();
        let upload = finding.await?;
        let live = match local {
            Some(_) => local,
            None if self.0.peers.is_none() => None,
            // Boxed: this path is rare.
            None => Box::pin(self.0.live_of(std::slice::from_ref(&upload))).await.into_iter().next().flatten(),
        };
        Ok(self.view(upload, live))
    }

    /// Returns the uploads that match as of the latest commit, newest first.
    pub async fn list(&self, principal: &Principal, query: &UploadQuery) -> Result<StatusPage, EngineError> {
        Ok(self.statuses(self.0.uploads.list(principal.scope(), query).await?).await)
    }

    /// Adds the progress of running appends to a page of uploads.
    pub(crate) async fn statuses(&self, page: UploadPage) -> StatusPage {
        let live = self.0.live_of(&page.found).await;
        let view = |(upload, live)| self.view(self.0.extended(upload), live);
        StatusPage { found: page.found.into_iter().zip(live).map(view).collect(), next: page.next }
    }

    fn view(&self, upload: Upload, live: Option<ProgressReading>) -> UploadStatus {
        let committed = upload.offset().get();
        let live = live.filter(|_| upload.stage().takes_bytes()).map(|reading| LiveAppend {
            received_bytes: reading.received_bytes.max(committed),
            bytes_per_second: reading.rate(),
        });
        let expired = live.is_none() && upload.is_expired(self.0.now());
        UploadStatus { upload, expired, live }
    }

    /// Returns the absolute path of the file of a completed upload, for programs on the same machine. `None`
    /// if there is no such file, or if its path is not UTF-8.
    pub fn file_of(&self, upload: &Upload) -> Option<String> {
        let record = upload.record();
        let has_file = record.stage == Stage::Completed && upload.owns_bytes() && record.missing_since.is_none();
        has_file.then(|| self.0.final_path(upload)).flatten()
    }

    /// Returns how long an unfinished upload is kept if no more bytes arrive; `None` if it does not expire.
    pub fn time_left(&self, upload: &Upload) -> Option<Duration> {
        upload.record().expires_at.map(|at| at.since(self.0.now()))
    }

    /// Returns the bytes received by a running append, if one is running.
    pub async fn received_bytes(&self, id: UploadId) -> Option<u64> {
        self.live_reading(id).await.map(|reading| reading.received_bytes)
    }

    /// Reports whether a reading of a running append may be older than an earlier reading.
    pub fn readings_may_lag(&self) -> bool {
        self.0.peers.is_some() || self.0.progress.may_lag()
    }

    /// Reports whether an append is running.
    pub async fn is_live(&self, id: UploadId) -> bool {
        self.live_reading(id).await.is_some()
    }

    async fn live_reading(&self, id: UploadId) -> Option<ProgressReading> {
        self.0.live_again(id).await
    }

    /// Returns a bell that rings when this upload has changed.
    pub fn bell(&self, id: UploadId) -> UploadBell {
        UploadBell(self.0.bells.of_upload(id))
    }

    /// Returns a bell that rings when any upload has changed.
    pub fn bell_for_all(&self) -> UploadBell {
        UploadBell(self.0.bells.of_all())
    }

    /// Ends when the engine begins to shut down.
    pub async fn stopping(&self) {
        self.0.stop.cancelled().await;
    }

    pub async fn events_of(
        &self,
        principal: &Principal,
        id: UploadId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<LoggedEvent>, EngineError> {
        Ok(self.0.uploads.events_of(principal.scope(), id, after, limit).await?)
    }

    pub async fn events_since(
        &self,
        principal: &Principal,
        after: EventPosition,
        limit: u32,
    ) -> Result<EventPage, EngineError> {
        Ok(self.0.uploads.events_since(principal.scope(), after, limit).await?)
    }

    pub async fn newest_event(&self) -> Result<EventPosition, EngineError> {
        Ok(self.0.uploads.newest_event().await?)
    }

    /// Counts the events after a position, at most `most`; `None` if there is no such position.
    pub async fn count_events_behind(
        &self,
        principal: &Principal,
        after: EventPosition,
        most: u32,
    ) -> Result<Option<u32>, EngineError> {
        Ok(self.0.uploads.count_events_behind(principal.scope(), after, most).await?)
    }

    /// Checks that the storage and the database work.
    pub async fn check(&self) -> Result<(), EngineError> {
        self.0.check_running()?;
        if self.0.only_reads {
            // The other checks write.
            self.0.nodes.nodes().await?;
            return Ok(());
        }
        self.0.blobs.check().await.map_err(EngineError::storage)?;
        self.0.uploads.check().await?;
        Ok(())
    }

    /// Returns a completed upload for reading. `None` for an upload that is not complete; an error for one
    /// that has ended or is not settled.
    pub async fn download(&self, principal: &Principal, id: UploadId) -> Result<Option<Download>, EngineError> {
        let upload = self.0.recheck_bytes(self.0.find(principal.scope(), id).await?).await?;
        if let Some(why) = upload.gone(self.0.now()) {
            return Err(why.into());
        }
        match upload.stage() {
            Stage::Completed => Ok(Some(Download { upload, engine: self.clone() })),
            Stage::Received if !upload.is_partial() => Err(EngineError::Unavailable(Unavailable::Settling)),
            Stage::Verified | Stage::Stored => Err(EngineError::Unavailable(Unavailable::Settling)),
            Stage::Created | Stage::Receiving | Stage::Stalled | Stage::Received | Stage::Ended(_) => Ok(None),
        }
    }
}

impl Inner {
    /// Acquires a permit to read a complete upload: each read has a file open.
    pub(super) fn acquire_read_permit(&self) -> Result<OwnedSemaphorePermit, EngineError> {
        let turn = Arc::clone(&self.reading).try_acquire_owned();
        turn.map_err(|_| EngineError::Unavailable(Unavailable::TooManyReaders))
    }

    /// Returns the path of the file for the event of a completed upload, if paths are to be published.
    pub(super) fn file_to_report(&self, upload: &Upload) -> Option<String> {
        self.settings.tells_path.then(|| self.final_path(upload)).flatten()
    }

    fn final_path(&self, upload: &Upload) -> Option<String> {
        self.blobs.path(&current_key(upload))?.into_os_string().into_string().ok()
    }
}

impl Download {
    /// Returns the bytes of `range`, which lies within the upload.
    pub async fn read(
        &self,
        range: Range<u64>,
    ) -> Result<impl futures::Stream<Item = Result<bytes::Bytes, EngineError>> + use<>, EngineError> {
        let turn = self.engine.0.acquire_read_permit()?;
        let bytes = match self.engine.0.read_bytes(&self.upload, range).await {
            Err(error) => return Err(self.explain(error).await),
            Ok(bytes) => bytes,
        };
        Ok(bytes.map_err(move |error| {
            // The permit lasts as long as the stream.
            let _turn = &turn;
            EngineError::storage(error)
        }))
    }

    /// Explains an error in a task, so that missing bytes are recorded even if the caller is dropped.
    async fn explain(&self, error: storage::Error) -> EngineError {
        let (engine, upload) = (self.engine.clone(), self.upload.clone());
        let explaining = self.engine.spawn(async move { engine.0.explain(&upload, error).await });
        explaining.await.unwrap_or_else(EngineError::task_died)
    }
}
