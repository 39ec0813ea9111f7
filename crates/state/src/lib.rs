//! Durable facts: uploads, the events they caused, and the deliveries of those events.
//!
//! One port for each kind of fact, all implemented by one store. A commit writes an upload, its events and
//! their deliveries atomically. It checks the version: a commit that read an older version fails with
//! [`Error::Conflict`] and changes nothing. The store knows nothing of HTTP, the engine or the location of
//! the bytes; it keeps the storage's resume token as opaque bytes.

use domain::endpoint::EndpointId;
use domain::id::UploadId;

mod bells;
mod change;
pub mod clock;
mod cluster_record;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
mod delegate;
mod deliveries;
mod dispatch;
mod duties;
mod endpoints;
mod events;
mod hook_calls;
mod leases;
mod lock;
mod lost_answer;
pub mod memory;
mod notices;
mod progress;
mod reads;
mod replays;
mod retention;
mod schema;
mod store;
mod uploads;

pub use bells::{Bell, Bells, LocalBells};
pub use change::{Change, EventBodies, NewEvent, StoredEvent};
pub use cluster_record::{ClusterIdentity, ClusterRecord};
pub use deliveries::Deliveries;
pub use dispatch::{Claim, Dispatch, Settlement, SettlementBatch};
pub use duties::{DUTY_LASTS, Duties, has_duty};
pub use endpoints::{ConfigurationStanding, EndpointConfiguration, Endpoints};
pub use events::EventLog;
pub use hook_calls::HookCalls;
pub use leases::{LEFT_NODES_KEPT, Leases, Membership};
pub use lost_answer::{CommitIdentity, resolve_lost_answer};
pub use notices::Notices;
pub use progress::{LiveProgress, LocalProgress, ProgressReading, WriterCounters};
pub use reads::{DirectReads, KnownState, Reads};
pub use replays::Replays;
pub use retention::{BacklogLimits, Retention, RetentionHorizon};
pub use schema::{MigrationEffect, PendingMigration, SchemaStatus};
pub use store::Store;
pub use uploads::{SweepSelection, SweepShare, Uploads};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The upload was changed since it was read, or another node has taken it over. Nothing was written.
    #[error("upload {0} was changed concurrently")]
    Conflict(UploadId),
    /// The database was written by a newer version of this program.
    #[error(
        "the database was written by a newer version: it has migration {found}, this program supports up to {known}"
    )]
    TooNew { found: i64, known: i64 },
    /// The endpoint was changed since it was read, or one of this name exists. Nothing was written.
    #[error("endpoint {0} was changed concurrently")]
    EndpointConflict(EndpointId),
    /// The database was removed or replaced while it was open. No operation is reliable until a restart.
    #[error("the database files were removed or replaced: could not {operation}")]
    Gone { operation: &'static str },
    /// The request was sent and no reply arrived, so it may have been executed. [`resolve_lost_answer`]
    /// determines that for a commit of an upload.
    #[error("could not determine whether it was possible to {operation}")]
    Unanswered { operation: &'static str },
    /// No disk space for the commit. The condition may be temporary.
    #[error("no space left to {operation}")]
    NoSpace { operation: &'static str },
    /// The database cannot be reached, or has no capacity at the moment. Nothing was written.
    #[error("could not {operation}")]
    Unreachable {
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("could not {operation}")]
    Failed {
        /// The failed operation as a verb phrase: `commit an upload`.
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The failures that an acknowledged commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the process and a power failure: the commit is on stable storage.
    Strict,
    /// A crash of the process. A power failure may lose the latest commits: always whole commits, the newest
    /// first.
    Relaxed,
}

/// All ports for uploads in one trait, for the code that provides them to the layers above.
pub trait UploadStore: Uploads + EventLog + HookCalls + Store {}

impl<T: Uploads + EventLog + HookCalls + Store> UploadStore for T {}

/// All ports for deliveries in one trait, for the code that provides them to the layers above.
pub trait Outbox: Endpoints + Dispatch + Deliveries + Notices + Replays + Retention + Duties + Store {}

impl<T: Endpoints + Dispatch + Deliveries + Notices + Replays + Retention + Duties + Store> Outbox for T {}
