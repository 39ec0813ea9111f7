//! The replicas of the database, and the choice of the server for a read.
//!
//! A read goes to a replica that follows the primary, if the replica includes what the client knows and what
//! this node has answered before. It waits briefly for that; after the wait, or without such a replica, it
//! goes to the primary. A node stays with one replica as long as it can, because two of them are never at the
//! same position.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant as Deadline;

use crate::fault::{Fault, described};
use crate::lock::lock;
use crate::positions::{self, AnsweredPosition};
use crate::read_source::ReadSource;
use crate::replica::{ANSWERS_WITHIN, Replica, replayed_in_time};
use crate::session::{Connector, Session};
use crate::sessions::{Lent, Sessions};
use crate::settings::PostgresSettings;
use domain::position::CommitPosition;

/// The interval at which replicas are compared with the primary.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// The replicas of the database.
#[derive(Debug)]
pub(crate) struct Replicas {
    all: Vec<Replica>,
    answered: AnsweredPosition,
    /// The latest known position of the primary.
    primary: Mutex<Option<CommitPosition>>,
    /// The replica of the latest read.
    preferred: AtomicUsize,
    wait: Duration,
    max_lag: Duration,
    from_primary: AtomicU64,
    from_replica: AtomicU64,
}

/// A session with a replica for one read.
#[derive(Debug)]
pub(crate) struct ReplicaRead<'r> {
    replicas: &'r Replicas,
    session: Lent<'r>,
}

/// The state of a replica, for metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaReading {
    /// The address of the replica, without its password.
    pub replica: String,
    /// The time for which the replica has been without something that was committed on the primary.
    pub lag: Duration,
    /// True if reads go to the replica.
    pub is_used: bool,
}

/// The numbers of reads that could go to a replica, by the server they went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadCounts {
    pub primary: u64,
    pub replica: u64,
}

impl Replicas {
    pub(crate) fn new(primary: &Connector, settings: &PostgresSettings) -> Result<Self, Fault> {
        let own = &settings.replicas;
        let replica = |address: &crate::DatabaseUrl| {
            Ok(Replica::new(primary.to_replica(address.clone())?, own.connections, settings.patience))
        };
        Ok(Self {
            all: own.addresses.iter().map(replica).collect::<Result<_, Fault>>()?,
            answered: AnsweredPosition::default(),
            primary: Mutex::default(),
            // So that the nodes of a cluster do not all choose the same one.
            preferred: AtomicUsize::new(rand::random::<u16>().into()),
            wait: own.wait,
            max_lag: own.max_lag,
            from_primary: AtomicU64::default(),
            from_replica: AtomicU64::default(),
        })
    }

    pub(crate) fn are_none(&self) -> bool {
        self.all.is_empty()
    }

    /// Gives the calling thread separate sessions with each replica.
    pub(crate) fn drive_on_this_thread(&self) {
        self.all.iter().for_each(Replica::drive_on_this_thread);
    }

    /// Returns the position that the answer to a write names.
    pub(crate) async fn current_position(&self, primary: &Sessions) -> Option<CommitPosition> {
        if self.are_none() {
            return None;
        }
        self.answered.note();
        match self.answered.get(primary).await {
            Ok(position) => position,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "an answer names no position");
                None
            }
        }
    }

    /// Lends a session with a replica that includes `known` and everything this node has answered. `None` if
    /// the read must go to the primary. With `may_wait`, waits for a replica that is slightly behind.
    pub(crate) async fn lend(
        &self,
        primary: &Sessions,
        known: Option<CommitPosition>,
        may_wait: bool,
    ) -> Option<ReplicaRead<'_>> {
        if !self.all.iter().any(Replica::is_followed) {
            return None;
        }
        let answered = self.answered.get(primary).await.ok()?;
        let wanted: Vec<CommitPosition> = known.into_iter().chain(answered).collect();
        let deadline = Deadline::now() + if may_wait { self.wait } else { Duration::ZERO };
        let first = self.preferred.load(Ordering::Relaxed);
        for place in 0..self.all.len() {
            let number = first.wrapping_add(place) % self.all.len();
            let replica = &self.all[number];
            if !replica.is_followed() {
                continue;
            }
            // The connections may all be in use, or the server may not answer.
            match tokio::time::timeout_at(deadline + ANSWERS_WITHIN * 2, replica.lend(&wanted, deadline)).await {
                Ok(Ok(Some(session))) => {
                    self.preferred.store(number, Ordering::Relaxed);
                    return Some(ReplicaRead { replicas: self, session });
                }
                Ok(Err(fault)) => replica.note_failure(&fault),
                Ok(Ok(None)) | Err(_) => {}
            }
        }
        None
    }

    /// Notes that a read went to the primary.
    pub(crate) fn note_primary(&self) {
        self.from_primary.fetch_add(1, Ordering::Relaxed);
        self.answered.note();
    }

    pub(crate) fn readings(&self) -> Vec<ReplicaReading> {
        let reading = |replica: &Replica| ReplicaReading {
            replica: replica.to_string(),
            lag: replica.lag(),
            is_used: replica.is_followed(),
        };
        self.all.iter().map(reading).collect()
    }

    pub(crate) fn counts(&self) -> ReadCounts {
        ReadCounts {
            primary: self.from_primary.load(Ordering::Relaxed),
            replica: self.from_replica.load(Ordering::Relaxed),
        }
    }

    /// Checks every replica once. Fails for an address that can never be read from. A primary among them is
    /// such an error unless `roles_change`, which means that servers are expected to take over from each
    /// other.
    pub(crate) async fn check(&self, primary: &Sessions, roles_change: bool) -> Result<(), Fault> {
        self.look_at_primary(primary).await;
        let checks = join_all(self.all.iter().map(|replica| async move {
            let mut session = None;
            (replica, self.observe(replica, &mut session).await)
        }));
        for (replica, outcome) in checks.await {
            match outcome {
                Err(Fault::Primary) if !roles_change => {
                    return Err(Fault::Unusable(format!(
                        "the replica {replica} is a primary: it accepts writes; give the address of a server that \
                         follows the primary, or remove this one from the replicas"
                    )));
                }
                Err(fault @ Fault::Unusable(_)) => {
                    let why = described(&fault);
                    return Err(Fault::Unusable(format!("the replica {replica} cannot be used: {why}")));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Compares the replicas with the primary until it is aborted.
    pub(crate) async fn watch(self: Arc<Self>, primary: Arc<Sessions>) {
        if self.are_none() {
            return;
        }
        let mut sessions: Vec<Option<Session>> = self.all.iter().map(|_| None).collect();
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            self.look_at_primary(&primary).await;
            // What happened is in the state of each replica.
            join_all(self.all.iter().zip(&mut sessions).map(|(replica, session)| self.observe(replica, session))).await;
        }
    }

    async fn look_at_primary(&self, primary: &Sessions) {
        if self.are_none() {
            return;
        }
        match positions::read(primary).await {
            Ok(position) => {
                *lock(&self.primary) = Some(position);
                self.all.iter().for_each(|replica| replica.expect(position));
            }
            // Others report that the primary does not answer.
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "the primary has no position"),
        }
    }

    /// Compares a replica with the latest known position of the primary.
    async fn observe(&self, replica: &Replica, kept: &mut Option<Session>) -> Result<(), Fault> {
        let observed = async {
            let session = match kept.take().filter(Session::is_usable) {
                Some(session) => session,
                None => replica.connect().await?,
            };
            let reached = replayed_in_time(&session).await?;
            *kept = Some(session);
            Ok(reached)
        };
        match observed.await {
            Ok(reached) => {
                replica.compare(reached, *lock(&self.primary), self.max_lag);
                Ok(())
            }
            Err(fault) => {
                replica.note_fault(&fault);
                Err(fault)
            }
        }
    }

    pub(crate) async fn close(&self) {
        join_all(self.all.iter().map(Replica::close)).await;
    }
}

impl ReplicaRead<'_> {
    pub(crate) fn source(&self) -> ReadSource<'_> {
        ReadSource::Replica(&self.session)
    }

    /// Notes that the read is the answer. Another replica may be used for the next one; it must include this
    /// one.
    pub(crate) async fn answers(self) {
        self.replicas.from_replica.fetch_add(1, Ordering::Relaxed);
        if self.replicas.all.len() > 1
            && let Ok(shown) = replayed_in_time(&self.session).await
        {
            self.replicas.answered.raise(shown).await;
        }
    }
}
