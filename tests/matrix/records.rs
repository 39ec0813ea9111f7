//! The state as the engine of a node sees it: in memory, with faults, at the end of a line that may be cut.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::id::UploadId;
use domain::node::Epoch;
use domain::principal::TenantScope;
use domain::query::{UploadPage, UploadQuery};
use domain::upload::Upload;
use state::memory::MemoryState;
use state::{Change, SweepSelection, SweepShare, Uploads};

use crate::court::Court;
use crate::faults::{Call, Cause, Faults};
use crate::model::Promised;
use crate::peers::Line;
use crate::script::Wire;
use crate::unanswered::Unanswered;

/// The time after which the adapter of a database on another machine waits no longer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// The state with faults.
#[derive(Debug)]
pub struct Records {
    pub inner: Arc<MemoryState>,
    pub faults: Faults,
    pub court: Court,
    /// Set when several nodes share the state, which is then on another machine.
    pub is_remote: bool,
    /// The requests to other nodes that were not answered.
    pub unanswered: Unanswered,
}

fn state_error(cause: Cause) -> state::Error {
    match cause {
        Cause::Broken => state::Error::Failed { operation: "use the state", source: "it is broken".into() },
        Cause::Full => state::Error::NoSpace { operation: "use the state" },
        Cause::Unanswered => state::Error::Unanswered { operation: "use the state" },
    }
}

fn silence() -> state::Error {
    state::Error::Failed { operation: "use the state", source: "it does not answer".into() }
}

impl Records {
    /// Makes a change, which continues when its caller is gone.
    pub async fn change<T: Send + 'static>(
        &self,
        call: Call,
        work: impl Future<Output = state::Result<T>> + Send + 'static,
    ) -> state::Result<T> {
        let faults = self.faults.clone();
        let wire = if call == Call::Renew { Wire::Heartbeat } else { Wire::State };
        let made = tokio::spawn(async move { carry(&faults, wire, faults.around(call, state_error, work)).await });
        let made = async { made.await.expect("the stores do not panic and are not aborted") };
        self.patiently(made, state_error(Cause::Unanswered)).await
    }

    pub async fn read<T>(&self, call: Call, work: impl Future<Output = state::Result<T>>) -> state::Result<T> {
        let read = carry(&self.faults, Wire::State, self.faults.around(call, state_error, work));
        self.patiently(read, silence()).await
    }

    /// Makes a call that no planned fault happens to.
    pub async fn call<T>(&self, wire: Wire, work: impl Future<Output = state::Result<T>>) -> state::Result<T> {
        let work = async {
            self.faults.process().runs().await;
            let done = work.await;
            self.faults.process().runs().await;
            done
        };
        self.patiently(carry(&self.faults, wire, work), silence()).await
    }

    async fn patiently<T>(
        &self,
        work: impl Future<Output = state::Result<T>>,
        silence: state::Error,
    ) -> state::Result<T> {
        if !self.is_remote {
            return work.await;
        }
        let answer = tokio::time::timeout(ANSWERS_WITHIN, work).await;
        // A process that is frozen does not notice that time has passed.
        self.faults.process().runs().await;
        answer.unwrap_or(Err(silence))
    }
}

/// Carries a call over a line to the state, and its answer back.
async fn carry<T>(faults: &Faults, wire: Wire, work: impl Future<Output = state::Result<T>>) -> state::Result<T> {
    match faults.process().line(wire) {
        Line::Open => work.await,
        Line::Refused => {
            let source = "the connection is refused".into();
            Err(state::Error::Unreachable { operation: "reach the state", source })
        }
        Line::Silent | Line::Stopped => std::future::pending().await,
        Line::AnswersLost => {
            // Nobody learns what became of it.
            let _ = work.await;
            std::future::pending().await
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Uploads for Records {
    async fn insert(&self, new: Change) -> state::Result<Upload> {
        let inner = Arc::clone(&self.inner);
        self.change(Call::Insert, async move { inner.insert(new).await }).await
    }

    async fn commit(&self, change: Change) -> state::Result<Upload> {
        let (inner, court) = (Arc::clone(&self.inner), self.court.clone());
        let work = async move {
            let (id, ours) = (change.upload().id(), change.upload().record().lease.epoch);
            let theirs = epoch_of(&inner, id).await?;
            let committed = inner.commit(change).await?;
            if theirs.is_some_and(|theirs| theirs != ours) {
                let how = format!("{id} was committed in epoch {ours:?}, after {theirs:?} had begun");
                court.bench().model.breaks(Promised::ZombiesCommitNothing, how);
            }
            Ok(committed)
        };
        self.change(Call::Commit, work).await
    }

    async fn find(&self, scope: TenantScope, id: UploadId) -> state::Result<Option<Upload>> {
        self.read(Call::Find, self.inner.find(scope, id)).await
    }

    async fn list(&self, scope: TenantScope, query: &UploadQuery) -> state::Result<UploadPage> {
        self.call(Wire::State, self.inner.list(scope, query)).await
    }

    async fn due(
        &self,
        selection: SweepSelection,
        share: SweepShare,
        skip: u32,
        limit: u32,
    ) -> state::Result<Vec<Upload>> {
        self.read(Call::Due, self.inner.due(selection, share, skip, limit)).await
    }

    async fn count_missing(&self) -> state::Result<u64> {
        self.read(Call::Due, self.inner.count_missing()).await
    }
}

async fn epoch_of(state: &MemoryState, id: UploadId) -> state::Result<Option<Epoch>> {
    Ok(state.find(TenantScope::All, id).await?.map(|upload| upload.record().lease.epoch))
}

state::delegate_store!(Records, inner);
