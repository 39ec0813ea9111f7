//! What all parts of the engine share: its ports, its settings, who is writing,
//! and how a record is read and committed.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Randomness;
use crate::bookings::Bookings;
use crate::command::{EngineError, Unavailable};
use crate::disk;
use crate::hooks::{HookPort, IdIsTaken};
use crate::lease::LocalLeases;
use crate::metrics::EngineMetrics;
use crate::settings::EngineSettings;
use crate::writer_requests::WriterRequest;
use domain::event::{Event, EventKind};
use domain::id::{CommitId, InstanceId, UploadId};
use domain::principal::TenantScope;
use domain::rejection::Rejection;
use domain::time::Timestamp;
use domain::upload::{Record, Upload};
use state::clock::Clock;
use state::{Bells, Change, CommitIdentity, Deliveries, LiveProgress, UploadStore};

pub(super) struct Inner {
    pub(super) settings: EngineSettings,
    /// Whether somebody listens to progress at this moment; it changes while the engine runs.
    pub(super) progress_wanted: Arc<AtomicBool>,
    /// The one of the state.
    pub(super) clock: Clock,
    pub(super) randomness: Randomness,
    /// Which run of the program this is.
    pub(super) node: InstanceId,
    pub(super) uploads: Arc<dyn UploadStore>,
    /// The nodes at work, and the uploads they hold.
    pub(super) nodes: Arc<dyn state::Leases>,
    pub(super) deliveries: Arc<dyn Deliveries>,
    pub(super) blobs: Arc<dyn storage::BlobStore>,
    pub(super) abilities: storage::Abilities,
    /// `None`: the application is asked nothing.
    pub(super) hooks: Option<Arc<dyn HookPort>>,
    /// Rings when an upload waits for the application's word and there was none.
    pub(super) undecided: Notify,
    /// Memory for bytes on their way in.
    pub(super) pool: pool::Pool,
    pub(super) leases: LocalLeases<WriterRequest>,
    pub(super) bookings: Bookings,
    pub(super) bells: Arc<dyn Bells>,
    pub(super) progress: Arc<dyn LiveProgress>,
    pub(super) metrics: EngineMetrics,
    pub(super) disk: disk::LoggedDiskState,
    /// Permission to read the headers of a media file.
    pub(super) examiners: Semaphore,
    /// Permission to read a complete upload, for a download or to compare it with what is sent again.
    pub(super) reading: Arc<Semaphore>,
    /// Where append tasks run: apart from the threads that serve the network.
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Inner {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn check_running(&self) -> Result<(), EngineError> {
        if self.stop.is_cancelled() { Err(EngineError::Unavailable(Unavailable::ShuttingDown)) } else { Ok(()) }
    }

    pub(super) async fn find(&self, scope: TenantScope, id: UploadId) -> Result<Upload, EngineError> {
        let found = self.uploads.find(scope, id).await?.ok_or(EngineError::Rejected(Rejection::NotFound))?;
        Ok(self.extended(found))
    }

    /// The upload, once this node may write it. The caller holds its lease within this
    /// process. What this node holds already costs nothing; anything else is taken over,
    /// unless another node that lives holds it.
    pub(super) async fn own(&self, upload: Upload) -> Result<Upload, EngineError> {
        if upload.record().lease.is_of(self.node) {
            return Ok(upload);
        }
        // Boxed: it is seldom needed.
        Box::pin(self.take_over(upload)).await
    }

    async fn take_over(&self, found: Upload) -> Result<Upload, EngineError> {
        let lease = self.nodes.acquire(found.id(), self.node).await?.ok_or(Rejection::NotFound)?;
        if !lease.is_of(self.node) {
            return Err(EngineError::Unavailable(Unavailable::Held));
        }
        // The node before may have committed until its lease was gone, and
        // nothing it has promised may be overwritten.
        let upload = self.find(TenantScope::All, found.id()).await?;
        let was_changed = upload.record().version != found.record().version;
        if was_changed { Err(EngineError::Unavailable(Unavailable::Superseded)) } else { Ok(upload) }
    }

    pub(super) async fn insert(&self, mut upload: Upload) -> Result<Upload, EngineError> {
        upload.assign_to(self.node);
        let (kinds, began) = (new_event_kinds(&upload), Instant::now());
        let takes_room = !(upload.is_final() && self.abilities.joins_without_copying);
        let booking = match self.space(None).await? {
            Some(space) if takes_room => Some(self.bookings.book(&upload, space).ok_or(EngineError::NoSpace)?),
            Some(_) | None => None,
        };
        let new = self.change(upload);
        let signed = CommitIdentity::of(new.upload());
        let outcome = self.uploads.insert(new).await;
        // Said by the state and not found out later: what is there was there before.
        let is_taken = matches!(outcome, Err(state::Error::Conflict(_)));
        let inserted = self.recognised(signed, outcome).await;
        if let (Err(_), Some(booking)) = (&inserted, booking) {
            self.bookings.cancel(booking);
        }
        let committed = match inserted {
            // An id made here is new, so the application has chosen this one.
            Err(_) if is_taken => return Err(EngineError::chosen_badly(IdIsTaken)),
            inserted => inserted?,
        };
        self.metrics.booked(self.bookings.note(&committed));
        self.metrics.count(&committed, &kinds, began.elapsed());
        tracing::info!(upload = %committed.id(), length_bytes = committed.length().map(|length| length.get()), "upload created");
        self.bells.changed(committed.id());
        Ok(committed)
    }

    pub(super) async fn commit(&self, upload: Upload) -> Result<Upload, EngineError> {
        Ok(self.try_commit(upload).await?)
    }

    /// The same, for one who can do something about a conflict.
    pub(super) async fn try_commit(&self, upload: Upload) -> state::Result<Upload> {
        let (kinds, began) = (new_event_kinds(&upload), Instant::now());
        let missing_change = upload.missing_change();
        let change = self.change(upload);
        let signed = CommitIdentity::of(change.upload());
        let committed = self.recognised(signed, self.uploads.commit(change).await).await?;
        self.metrics.booked(self.bookings.note(&committed));
        self.metrics.missing(missing_change);
        self.metrics.count(&committed, &kinds, began.elapsed());
        self.bells.changed(committed.id());
        Ok(committed)
    }

    /// What came of a commit, also when its answer was lost.
    async fn recognised(&self, signed: CommitIdentity, outcome: state::Result<Upload>) -> state::Result<Upload> {
        match outcome {
            // Boxed: it is seldom needed.
            Err(state::Error::Unanswered { .. }) => {
                Box::pin(state::resolve_lost_answer(&*self.uploads, signed, outcome))
                    .await
                    .map(|found| self.extended(found))
            }
            outcome => outcome,
        }
    }

    /// The upload as it is to be written, signed, with the bodies of its new events.
    fn change(&self, mut upload: Upload) -> Change {
        upload.set_commit_id(CommitId::new(self.now(), (self.randomness)()));
        let body = |record: &Record, event: &Event| api::event::upload(record, event, &self.settings.status_root);
        Change::new(upload, body, || (self.randomness)())
    }

    /// The upload, once nothing more is to happen to it by itself. Waits for that as long as a takeover may
    /// take, also when nobody is at it just now: the sweeper may be about to.
    pub(super) async fn find_settled(&self, scope: TenantScope, id: UploadId) -> Result<Upload, EngineError> {
        let deadline = tokio::time::Instant::now() + self.settings.takeover_timeout;
        let mut bell = self.bells.of_upload(id);
        loop {
            let upload = self.find(scope, id).await?;
            if !upload.is_settling() {
                return Ok(upload);
            }
            let rung = tokio::time::timeout_at(deadline, bell.rung()).await;
            rung.map_err(|_| EngineError::Unavailable(Unavailable::Settling))?;
        }
    }
}

fn new_event_kinds(upload: &Upload) -> Vec<EventKind> {
    upload.events().iter().map(|event| event.kind).collect()
}
