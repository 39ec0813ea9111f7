//! The history of transactions that a server continues, and what follows when it changes.
//!
//! A server has an identifier, which its replicas share, and a timeline, which grows with each promotion.
//!
//! - After a failover the former primary may start again with its old data. Two servers that both accept
//!   commits would defeat every epoch. A server with a lower timeline than one seen before is therefore
//!   rejected.
//! - A promoted replica may lack commits that the former primary has confirmed, and with them leases. Their
//!   holders may still write bytes. The database records the history that its writers have used. The first
//!   transaction of a node in another history is preceded by one that ends all leases and raises epochs above
//!   those that the lost commits can have given.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bucket::all_buckets;
use crate::fault::Fault;
use crate::lock::lock;
use crate::params::params;
use crate::rows::Columns;
use crate::session::Session;
use crate::transaction::one;
use crate::unfinished;

/// The bits of an epoch below the number of its history.
const EPOCH_BITS: u32 = 32;

/// The number of transactions in a row that may find themselves on a server whose history is not recorded.
const ATTEMPTS: u32 = 3;

/// The timeline that the database has recorded at least, as far as this node knows.
#[derive(Debug, Default)]
pub(crate) struct RecordedTimeline(AtomicU32);

impl RecordedTimeline {
    /// Begins a transaction after the history of its server has been recorded.
    pub(crate) async fn begin(&self, session: &Session) -> Result<(), Fault> {
        // Behind a pooler, the next transaction may run on another server than the one before.
        for _ in 0..ATTEMPTS {
            session.begin().await?;
            if self.has(session) {
                return Ok(());
            }
            session.roll_back().await;
            self.catch_up(session).await?;
        }
        Err(Fault::Replaced)
    }

    fn has(&self, session: &Session) -> bool {
        self.0.load(Ordering::Acquire) >= session.timeline()
    }

    /// Records the history of a session's server in a separate transaction.
    pub(crate) async fn catch_up(&self, session: &Session) -> Result<(), Fault> {
        session.begin().await?;
        let timeline = session.timeline();
        match record(session).await {
            Ok(()) => session.commit().await?,
            Err(fault) => {
                session.roll_back().await;
                return Err(fault);
            }
        }
        self.0.fetch_max(timeline, Ordering::AcqRel);
        Ok(())
    }
}

/// A history: a server on a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct History {
    system: i64,
    timeline: i64,
    /// The number of the history before the first timeline of this server.
    before: i64,
}

impl History {
    /// Numbers grow with each history, also if the record of one was lost with it.
    fn number(self) -> i64 {
        self.before + self.timeline
    }

    /// Returns the history to record in place of this one; `None` if it continues.
    fn followed_by(self, system: i64, timeline: i64) -> Option<Self> {
        let is_same = self.system == system;
        if is_same && timeline <= self.timeline {
            return None;
        }
        let before = match self.system {
            // A new database has lost nothing.
            0 => -timeline,
            _ if is_same => self.before,
            // It was restored from a backup.
            _ => self.number(),
        };
        Some(Self { system, timeline, before })
    }
}

async fn record(session: &Session) -> Result<(), Fault> {
    const READ: &str = "SELECT system, timeline, before FROM lineage FOR UPDATE";
    // Indexed by no column: it reads the days with unfinished uploads, once after a failover.
    const END_LEASES: &str = "UPDATE upload_progress
         SET holder = NULL, epoch = greatest(epoch, $1), lease_generation = greatest(epoch, $1)
         WHERE holder IS NOT NULL AND id >= $2 AND bucket = ANY($3::bigint[])";
    let found = session.query(READ, &[]).await?;
    let mut columns = Columns::of(one(&found)?);
    let recorded = History { system: columns.next()?, timeline: columns.next()?, before: columns.next()? };
    let next = recorded.followed_by(session.system(), i64::from(session.timeline()));
    let Some(next) = next else { return Ok(()) };
    let values = params![next.system, next.timeline, next.before];
    session.execute("UPDATE lineage SET system = $1, timeline = $2, before = $3", values).await?;
    if next.number() > 0 {
        let from = unfinished::read(session).await?.uploads;
        let ended = session.execute(END_LEASES, params![next.number() << EPOCH_BITS, from, all_buckets()]).await?;
        tracing::warn!(
            timeline = next.timeline,
            ended,
            "the database continues on another timeline and may have lost commits; ended the leases of all uploads"
        );
    }
    Ok(())
}

/// The latest server, and its timeline.
#[derive(Debug, Default)]
pub(crate) struct Lineage(Mutex<Option<(i64, u32)>>);

impl Lineage {
    /// Checks that a replica has the identifier of the server that it must follow.
    pub(crate) fn expect_system(&self, system: i64) -> Result<(), Fault> {
        match *lock(&self.0) {
            Some((known, _)) if known != system => {
                Err(Fault::Unusable("it is not a replica of this database server, but of another one".to_owned()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Records the server of a new connection.
    pub(crate) fn accept(&self, system: i64, timeline: u32) -> Result<(), Fault> {
        let mut seen = lock(&self.0);
        if let Some((known, highest)) = *seen {
            if known != system {
                return Err(Fault::Unusable(
                    "the address leads to a different database server; restart this server if that is intended"
                        .to_owned(),
                ));
            }
            if timeline < highest {
                return Err(Fault::Former { timeline, highest });
            }
        }
        *seen = Some((system, timeline));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_is_followed_and_never_undone() {
        let lineage = Lineage::default();
        for (system, timeline, is_accepted) in
            [(7, 1, true), (7, 1, true), (7, 3, true), (7, 2, false), (8, 9, false), (7, 3, true), (7, 4, true)]
        {
            assert_eq!(lineage.accept(system, timeline).is_ok(), is_accepted, "{system} {timeline}");
        }
    }

    #[test]
    fn every_history_has_a_higher_number() {
        let new = History { system: 0, timeline: 0, before: 0 };
        let first = new.followed_by(7, 3).unwrap();
        assert_eq!(first.number(), 0, "a new database has lost nothing");
        assert_eq!(first.followed_by(7, 3), None);
        assert_eq!(first.followed_by(7, 2), None);
        let promoted = first.followed_by(7, 4).unwrap();
        // The record of timeline 4 was lost with it.
        let again = first.followed_by(7, 5).unwrap();
        let restored = again.followed_by(8, 1).unwrap();
        let numbers = [first, promoted, again, restored].map(History::number);
        assert!(numbers.windows(2).all(|two| two[0] < two[1]), "{numbers:?}");
    }
}
