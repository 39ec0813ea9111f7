//! Durable facts: uploads, the events they caused, and the deliveries of those events.
//!
//! One port for each noun, all over one store. A commit writes an upload, its events and their deliveries
//! together or not at all. The version in a commit is the law: a commit that read an older version fails with
//! [`Error::Conflict`] and changes nothing. The store knows nothing of HTTP, of the engine or of where bytes
//! are; it keeps the storage's resume token as bytes it cannot read.

use domain::endpoint::EndpointId;
use domain::id::UploadId;

mod bells;
mod change;
pub mod clock;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
mod delegate;
mod deliveries;
mod dispatch;
mod endpoints;
mod events;
mod hook_calls;
mod leases;
mod lock;
mod lost_answer;
pub mod memory;
mod notices;
mod progress;
mod replays;
mod retention;
mod store;
mod uploads;

pub use bells::{Bell, Bells, LocalBells};
pub use change::{Change, EventBodies, NewEvent, StoredEvent};
pub use deliveries::Deliveries;
pub use dispatch::{Claim, Dispatch, Settlement, SettlementBatch};
pub use endpoints::Endpoints;
pub use events::EventLog;
pub use hook_calls::HookCalls;
pub use leases::{Leases, Membership};
pub use lost_answer::{CommitIdentity, resolve_lost_answer};
pub use notices::Notices;
pub use progress::{LiveProgress, LocalProgress, ProgressReading, WriterCounters};
pub use replays::Replays;
pub use retention::{BacklogLimits, Retention, RetentionHorizon};
pub use store::Store;
pub use uploads::{SweepSelection, Uploads};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The upload was changed by someone else since it was read, or another node has taken it over. Nothing
    /// was written.
    #[error("upload {0} was changed concurrently")]
    Conflict(UploadId),
    /// The database is of another, newer version of this program.
    #[error(
        "the database was written by a newer version: it has migration {found}, this program supports up to {known}"
    )]
    TooNew { found: i64, known: i64 },
    /// The endpoint was changed by someone else since it was read, or one of
    /// this name is there. Nothing was written.
    #[error("endpoint {0} was changed concurrently")]
    EndpointConflict(EndpointId),
    /// The database was removed or replaced while it was open. Nothing can be relied on until a restart.
    #[error("the database files were removed or replaced: could not {operation}")]
    Gone { operation: &'static str },
    /// It was asked for, and no answer came: it may have been done.
    /// [`resolve_lost_answer`] finds out for a commit of an upload.
    #[error("could not determine whether it was possible to {operation}")]
    Unanswered { operation: &'static str },
    /// No room for the commit; it may come back.
    #[error("no space left to {operation}")]
    NoSpace { operation: &'static str },
    #[error("could not {operation}")]
    Failed {
        /// What was being done, as a verb phrase: `commit an upload`.
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What an answered commit outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The process and the power: the commit is on stable storage.
    Strict,
    /// The process, however it ends. A power failure may take the last commits, whole ones, latest first.
    Relaxed,
}

/// Everything that has to do with uploads, for whoever hands the ports out.
pub trait UploadStore: Uploads + EventLog + HookCalls + Store {}

impl<T: Uploads + EventLog + HookCalls + Store> UploadStore for T {}

/// Everything that has to do with deliveries, for whoever hands the ports out.
pub trait Outbox: Endpoints + Dispatch + Deliveries + Notices + Replays + Retention + Store {}

impl<T: Endpoints + Dispatch + Deliveries + Notices + Replays + Retention + Store> Outbox for T {}
