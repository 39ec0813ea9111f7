//! Everything that only asks: status, lists, events, deliveries, downloads. It takes no lease, disturbs no
//! writer, and reads committed rows, and how far running appends are, wherever they run.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use tokio::sync::OwnedSemaphorePermit;

use crate::blobs::current_key;
use crate::command::{EngineError, Unavailable};
use crate::{Engine, Inner};
use domain::delivery::DeliveryRecord;
use domain::hook::HookCall;
use domain::id::{DeliveryId, UploadId};
use domain::principal::Principal;
use domain::rejection::Rejection;
use domain::stage::{Ended, Stage};
use domain::upload::Upload;
use state::ProgressReading;

use domain::log::{EventPage, EventPosition, LoggedEvent};
use domain::query::{DeliveryPage, DeliveryQuery, HookCallQuery, UploadQuery};

/// An upload as it is now, with what a running append has taken in beyond the committed bytes.
#[derive(Debug, Clone)]
pub struct UploadStatus {
    pub upload: Upload,
    /// Its time has passed, though the sweeper has not recorded it yet.
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

/// A running append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveAppend {
    /// Bytes taken in, counted from the start of the upload; those above the offset are not committed yet.
    pub received_bytes: u64,
    /// Smoothed over the last seconds; zero until there is a rate.
    pub bytes_per_second: u64,
}

/// Rings when something has changed.
#[derive(Debug)]
pub struct UploadBell(state::Bell);

impl UploadBell {
    /// Waits until it has rung since this was last asked, or for as long as a ring may have been missed.
    pub async fn rung(&mut self) {
        self.0.rung().await;
    }
}

/// What the engine holds in memory at this moment, for all uploads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLoad {
    /// Leases held, those of uploads kept open for their next request included.
    pub leases: usize,
    /// Tasks that run, the sweeper's included.
    pub tasks: usize,
    /// What is free of the memory for bytes on their way in.
    pub free_buffer_bytes: usize,
}

/// The bytes of a completed upload.
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

    pub async fn status(&self, principal: &Principal, id: UploadId) -> Result<UploadStatus, EngineError> {
        // Counters first: the row read after them is at least as new, so `received` can be lifted to it.
        let live = self.live_reading(id).await;
        let upload = self.0.find(principal.scope(), id).await?;
        Ok(self.view(upload, live))
    }

    /// Uploads that match, newest first.
    pub async fn list(&self, principal: &Principal, query: &UploadQuery) -> Result<StatusPage, EngineError> {
        let page = self.0.uploads.list(principal.scope(), query).await?;
        let ids: Vec<_> = page.found.iter().map(Upload::id).collect();
        let live = self.0.progress.of(&ids).await;
        let view = |(upload, live)| self.view(self.0.extended(upload), live);
        Ok(StatusPage { found: page.found.into_iter().zip(live).map(view).collect(), next: page.next })
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
    /// when there is no such file, or none that can be named.
    pub fn file_of(&self, upload: &Upload) -> Option<String> {
        let record = upload.record();
        let has_file = record.stage == Stage::Completed && upload.owns_bytes() && record.missing_since.is_none();
        has_file.then(|| self.0.final_path(upload)).flatten()
    }

    /// How long an unfinished upload is kept if nothing more comes; `None` when it does not expire.
    pub fn time_left(&self, upload: &Upload) -> Option<Duration> {
        upload.record().expires_at.map(|at| at.since(self.0.now()))
    }

    /// Bytes taken in by a running append, if one is running.
    pub async fn received_bytes(&self, id: UploadId) -> Option<u64> {
        self.live_reading(id).await.map(|reading| reading.received_bytes)
    }

    /// Whether what is known of a running append may be behind what was known of it before.
    pub fn readings_may_lag(&self) -> bool {
        self.0.progress.may_lag()
    }

    /// Whether an append is running.
    pub async fn is_live(&self, id: UploadId) -> bool {
        self.live_reading(id).await.is_some()
    }

    async fn live_reading(&self, id: UploadId) -> Option<ProgressReading> {
        self.0.progress.of(&[id]).await.into_iter().next().flatten()
    }

    /// Rings when this upload has changed.
    pub fn bell(&self, id: UploadId) -> UploadBell {
        UploadBell(self.0.bells.of_upload(id))
    }

    /// Rings when any upload has changed.
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

    /// Counts the events behind a place, no further than `most`; `None` when there is no such place.
    pub async fn count_events_behind(
        &self,
        principal: &Principal,
        after: EventPosition,
        most: u32,
    ) -> Result<Option<u32>, EngineError> {
        Ok(self.0.uploads.count_events_behind(principal.scope(), after, most).await?)
    }

    pub async fn deliveries(&self, principal: &Principal, query: &DeliveryQuery) -> Result<DeliveryPage, EngineError> {
        Ok(self.0.deliveries.deliveries(principal.scope(), query).await?)
    }

    pub async fn delivery(&self, principal: &Principal, id: DeliveryId) -> Result<Option<DeliveryRecord>, EngineError> {
        Ok(self.0.deliveries.delivery(principal.scope(), id).await?)
    }

    /// What the application was asked, newest first.
    pub async fn hook_calls(&self, principal: &Principal, query: &HookCallQuery) -> Result<Vec<HookCall>, EngineError> {
        Ok(self.0.uploads.hook_calls(principal.scope(), query).await?)
    }

    /// Tries the storage and the database.
    pub async fn check(&self) -> Result<(), EngineError> {
        self.0.check_running()?;
        self.0.blobs.check().await.map_err(EngineError::storage)?;
        self.0.uploads.check().await?;
        Ok(())
    }

    /// A completed upload, to be read. Anything else has nothing to read yet, or any more.
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
    /// Permission to read a complete upload: each has a file open.
    pub(super) fn acquire_read_permit(&self) -> Result<OwnedSemaphorePermit, EngineError> {
        let turn = Arc::clone(&self.reading).try_acquire_owned();
        turn.map_err(|_| EngineError::Unavailable(Unavailable::TooManyReaders))
    }

    /// Where the file of an upload is to be told when it completes, if anybody is to know.
    pub(super) fn file_to_report(&self, upload: &Upload) -> Option<String> {
        self.settings.tells_path.then(|| self.final_path(upload)).flatten()
    }

    fn final_path(&self, upload: &Upload) -> Option<String> {
        self.blobs.path(&current_key(upload))?.into_os_string().into_string().ok()
    }
}

impl Download {
    /// The bytes of `range`, which lies within the upload.
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
            // The turn lasts as long as the stream.
            let _turn = &turn;
            EngineError::storage(error)
        }))
    }

    /// Off the caller's hands: what was found out is noted whether anybody waits for it or not.
    async fn explain(&self, error: storage::Error) -> EngineError {
        let (engine, upload) = (self.engine.clone(), self.upload.clone());
        let explaining = self.engine.spawn(async move { engine.0.explain(&upload, error).await });
        explaining.await.unwrap_or_else(EngineError::task_died)
    }
}
