//! State that all parts of the engine share: its ports, its settings and the local leases; and the functions
//! that read and commit a record.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Randomness;
use crate::bookings::Bookings;
use crate::command::{EngineError, Unavailable};
use crate::disk;
use crate::doubts::Doubts;
use crate::fence::Fence;
use crate::handover::Handover;
use crate::hooks::{HookPort, IdIsTaken};
use crate::lease::LocalLeases;
use crate::metrics::EngineMetrics;
use crate::peers::PeerAccess;
use crate::settings::EngineSettings;
use crate::writer_requests::WriterRequest;
use domain::event::{Event, EventKind};
use domain::id::{CommitId, InstanceId, UploadId};
use domain::node::{Epoch, Lease};
use domain::principal::TenantScope;
use domain::rejection::Rejection;
use domain::time::Timestamp;
use domain::upload::{Record, Upload};
use state::clock::Clock;
use state::{Bells, Change, CommitIdentity, LiveProgress, Reads, UploadStore};

pub(super) struct Inner {
    pub(super) settings: EngineSettings,
    /// True while somebody subscribes to progress events. It changes while the engine runs.
    pub(super) progress_wanted: Arc<AtomicBool>,
    /// The clock of the state.
    pub(super) clock: Clock,
    pub(super) randomness: Randomness,
    /// The identity of this run of the program.
    pub(super) node: InstanceId,
    pub(super) uploads: Arc<dyn UploadStore>,
    /// The leases of all live nodes.
    pub(super) nodes: Arc<dyn state::Leases>,
    pub(super) duties: Arc<dyn state::Duties>,
    /// The source of answers to queries.
    pub(super) reads: Arc<dyn Reads>,
    pub(super) blobs: Arc<dyn storage::BlobStore>,
    pub(super) abilities: storage::Abilities,
    /// `None` if no hooks are configured.
    pub(super) hooks: Option<Arc<dyn HookPort>>,
    /// `None` if this node shares its uploads with no other.
    pub(super) peers: Option<PeerAccess>,
    /// `None` for a node that works alone.
    pub(super) fence: Option<Fence>,
    pub(super) handover: watch::Sender<Handover>,
    /// True for a node that writes nothing: neither to the storage nor to the state.
    pub(super) only_reads: bool,
    /// Notified when an upload waits for a verdict that the application did not give.
    pub(super) undecided: Notify,
    /// Memory for bytes on their way to the storage.
    pub(super) pool: pool::Pool,
    pub(super) leases: LocalLeases<WriterRequest>,
    /// Uploads with a commit that may still take effect, until a new epoch begins.
    pub(super) in_doubt: Doubts,
    pub(super) bookings: Bookings,
    pub(super) bells: Arc<dyn Bells>,
    pub(super) progress: Arc<dyn LiveProgress>,
    pub(super) metrics: EngineMetrics,
    pub(super) disk: disk::LoggedDiskState,
    /// Limits how many media files are examined at once.
    pub(super) examiners: Semaphore,
    /// Limits how many complete uploads are read at once, for downloads and for comparisons with bytes sent
    /// again.
    pub(super) reading: Arc<Semaphore>,
    /// The runtime of the append tasks, separate from the threads that serve the network.
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Inner {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn check_running(&self) -> Result<(), EngineError> {
        if self.stop.is_cancelled() {
            Err(EngineError::Unavailable(Unavailable::ShuttingDown))
        } else {
            self.check_contact()
        }
    }

    pub(super) async fn find(&self, scope: TenantScope, id: UploadId) -> Result<Upload, EngineError> {
        let found = self.uploads.find(scope, id).await?.ok_or(EngineError::Rejected(Rejection::NotFound))?;
        Ok(self.extended(found))
    }

    /// Returns the upload once this node holds its lease in the state. The caller holds the local lease. A
    /// lease that this node has already costs nothing; any other is taken over, unless a live node holds it.
    pub(super) async fn own(&self, upload: Upload) -> Result<Upload, EngineError> {
        if self.holds(&upload) {
            return Ok(upload);
        }
        // Boxed: this path is rare.
        Box::pin(self.take_over(upload)).await
    }

    /// Reports whether this node may write the upload as it was found.
    pub(super) fn holds(&self, found: &Upload) -> bool {
        found.record().lease.is_of(self.node) && !self.is_in_doubt(found.id())
    }

    /// Reports whether a commit to the upload may still take effect although it seems not to have been made.
    pub(super) fn is_in_doubt(&self, id: UploadId) -> bool {
        self.in_doubt.contains(id)
    }

    /// Acquires the lease of an upload unless another live node holds it, and reads the record again: the
    /// previous holder may have committed until it lost the lease, and an offset it has reported must not be
    /// overwritten. If a commit is in doubt, a new epoch is begun: the commit can then no longer take effect.
    pub(super) async fn acquire(&self, found: &Upload) -> Result<Acquired, EngineError> {
        let (id, lease) = (found.id(), found.record().lease);
        if lease.is_of(self.node) && self.is_in_doubt(id) {
            self.nodes.release(id, lease).await?;
        }
        let lease = self.nodes.acquire(id, self.node).await?.ok_or(Rejection::NotFound)?;
        if lease != found.record().lease {
            self.in_doubt.settle(id);
        }
        self.confirm(id, lease).await
    }

    /// Reads the record of an upload again that this node has acquired with `lease`, if it is this node's.
    pub(super) async fn confirm(&self, id: UploadId, lease: Lease) -> Result<Acquired, EngineError> {
        if !lease.is_of(self.node) {
            return Ok(Acquired::Elsewhere(lease));
        }
        let upload = self.find(TenantScope::All, id).await?;
        // Another node may have taken the upload since, and its lease must not be mistaken for this node's.
        let now = upload.record().lease;
        Ok(if now == lease { Acquired::Here(upload) } else { Acquired::Elsewhere(now) })
    }

    async fn take_over(&self, found: Upload) -> Result<Upload, EngineError> {
        match self.acquire(&found).await? {
            Acquired::Here(upload) if upload.record().version == found.record().version => Ok(upload),
            Acquired::Here(_) => Err(EngineError::Unavailable(Unavailable::Superseded)),
            Acquired::Elsewhere(_) => Err(EngineError::Unavailable(Unavailable::Held)),
        }
    }

    /// Fails if as many uploads are active as may be. Those with a commit in doubt count, until the sweeper
    /// has settled them.
    pub(super) fn check_active_uploads(&self, others: usize) -> Result<(), EngineError> {
        if others + self.in_doubt.count() < self.settings.max_active_uploads {
            return Ok(());
        }
        Err(EngineError::Unavailable(Unavailable::Busy))
    }

    /// Releases the leases of uploads in doubt that nobody continues. A commit in doubt loses to the epoch of
    /// the next holder.
    pub(super) async fn settle_doubts(&self, most: usize) {
        for (id, epoch) in self.in_doubt.some(most) {
            if let Err(error) = self.settle_doubt(id, epoch).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "could not settle uploads with an unknown commit; will retry");
                return;
            }
        }
    }

    async fn settle_doubt(&self, id: UploadId, epoch: Epoch) -> state::Result<()> {
        // A holder of the local lease settles the doubt itself, or has read the record before.
        let Some(_held) = self.leases.try_take(id) else { return Ok(()) };
        let found = self.uploads.find(TenantScope::All, id).await?;
        let lease = found.as_ref().map(|upload| upload.record().lease);
        if let Some(lease) = lease.filter(|lease| lease.is_of(self.node) && lease.epoch == epoch) {
            self.nodes.release(id, lease).await?;
        }
        self.in_doubt.settle_epoch(id, epoch);
        Ok(())
    }

    pub(super) async fn insert(&self, mut upload: Upload) -> Result<Upload, EngineError> {
        self.check_active_uploads(0)?;
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
        // Taken from the direct answer only: after a lost answer, the record found may be the one that was
        // just inserted.
        let is_taken = matches!(outcome, Err(state::Error::Conflict(_)));
        let inserted = self.recognised(signed, outcome).await;
        if let (Err(_), Some(booking)) = (&inserted, booking) {
            self.bookings.cancel(booking);
        }
        let committed = match inserted {
            // An id generated here is new, so the application has chosen this one.
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

    /// Commits like [`Self::commit`], for callers that can handle a conflict.
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

    /// Returns the outcome of a commit. If the answer of the state was lost, the outcome is looked up. A
    /// commit that is not found may still take effect later: a database that waits for its standby hides it
    /// until then.
    async fn recognised(&self, signed: CommitIdentity, outcome: state::Result<Upload>) -> state::Result<Upload> {
        match outcome {
            Err(state::Error::Unanswered { .. }) => {
                // Boxed: this path is rare.
                let resolved = Box::pin(state::resolve_lost_answer(&*self.uploads, signed, outcome)).await;
                if resolved.is_err() {
                    self.in_doubt.note(signed.upload(), signed.epoch());
                }
                resolved.map(|found| self.extended(found))
            }
            outcome => outcome,
        }
    }

    /// Builds the change to be written: the upload with its commit id, and the bodies of its new events.
    fn change(&self, mut upload: Upload) -> Change {
        upload.set_commit_id(CommitId::new(self.now(), (self.randomness)()));
        let body = |record: &Record, event: &Event| api::event::upload(record, event, &self.settings.status_root);
        Change::new(upload, body, || (self.randomness)())
    }

    /// Returns the upload once it is settled. Waits at most the takeover timeout, also when no task is
    /// working on it at the moment: the sweeper may be about to start.
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

/// The outcome of acquiring the lease of an upload.
#[expect(clippy::large_enum_variant, reason = "one lives for a moment; boxing would allocate for each takeover")]
pub(super) enum Acquired {
    /// This node holds the lease: the upload as it is now.
    Here(Upload),
    /// This node does not hold the lease: the lease as it is now.
    Elsewhere(Lease),
}

fn new_event_kinds(upload: &Upload) -> Vec<EventKind> {
    upload.events().iter().map(|event| event.kind).collect()
}
