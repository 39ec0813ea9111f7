//! One replica: its connections, how far it has replayed the log of the primary, and whether it is read from.
//!
//! A server does not say which timeline it replays. The primary's first transaction on a timeline records it
//! in the table `lineage`, so a replica on which that record can be read has replayed this timeline. One that
//! follows a former primary never shows it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::time::Instant as Deadline;

use crate::fault::{Fault, Remedy, described};
use crate::lock::lock;
use crate::rows::Columns;
use crate::session::{Connector, Purpose, Session};
use crate::sessions::{Lent, Sessions};
use crate::transaction::one;
use domain::position::CommitPosition;

/// The end of what a replica has replayed, and the timeline that it shows.
const REPLAYED: &str = "SELECT pg_is_in_recovery(), timeline,
         coalesce((pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint, 0)
     FROM lineage";

/// The interval between looks at a replica that has not replayed enough yet.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The time within which a replica must say how far it is.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// The maximum number of positions kept to measure the lag; for a lag that is longer, the oldest ones count.
const MOST_SAMPLES: usize = 1_200;

/// The relation of a replica to the primary, which decides whether it is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReplicaState {
    /// It was not checked yet.
    Unknown,
    Following,
    /// It lacks commits that are too old.
    Lagging,
    /// It follows a former primary, or has not replayed the failover to the present one yet.
    OnOtherTimeline,
    /// It cannot be reached or does not answer, for a reason.
    Unreachable(String),
    /// It must not be used, for a reason.
    Refused(String),
}

/// The positions of the primary that a replica has not reached, with the times at which they were seen.
#[derive(Debug, Default)]
struct Samples(VecDeque<(Instant, CommitPosition)>);

#[derive(Debug)]
pub(crate) struct Replica {
    connector: Connector,
    readers: Sessions,
    state: Mutex<ReplicaState>,
    samples: Mutex<Samples>,
}

impl Replica {
    pub(crate) fn new(connector: Connector, connections: u32, patience: Duration) -> Self {
        let readers = Sessions::new(connector.clone(), Purpose::ReadReplica, connections, patience);
        Self { connector, readers, state: Mutex::new(ReplicaState::Unknown), samples: Mutex::default() }
    }

    pub(crate) fn drive_on_this_thread(&self) {
        self.readers.drive_on_this_thread();
    }

    pub(crate) fn is_followed(&self) -> bool {
        *lock(&self.state) == ReplicaState::Following
    }

    /// Returns how long the replica has been without something that was committed on the primary.
    pub(crate) fn lag(&self) -> Duration {
        lock(&self.samples).lag(Instant::now())
    }

    pub(crate) async fn connect(&self) -> Result<Session, Fault> {
        self.connector.connect(Purpose::ReadReplica).await
    }

    /// Lends a session once the replica includes all positions. `None` if it does not by the deadline.
    pub(crate) async fn lend(&self, wanted: &[CommitPosition], deadline: Deadline) -> Result<Option<Lent<'_>>, Fault> {
        let session = self.readers.get().await?;
        loop {
            let reached = replayed_in_time(&session).await?;
            if wanted.iter().all(|wanted| reached.includes(*wanted)) {
                return Ok(Some(session));
            }
            // A position of an earlier timeline is never reached.
            if Deadline::now() >= deadline || wanted.iter().any(|wanted| wanted.timeline < reached.timeline) {
                return Ok(None);
            }
            tokio::time::sleep_until((Deadline::now() + LOOK_EVERY).min(deadline)).await;
        }
    }

    /// Notes that a read has failed. The replica is not read from until it answers again.
    pub(crate) fn note_failure(&self, fault: &Fault) {
        match fault {
            Fault::Primary => self.enter(ReplicaState::Refused(described(fault))),
            fault if fault.remedy() == Remedy::Reconnect => {
                self.readers.forget_idle();
                self.enter(ReplicaState::Unreachable(described(fault)));
            }
            _ => {}
        }
    }

    /// Compares the replica with the latest position of the primary that is known.
    pub(crate) fn compare(&self, reached: CommitPosition, primary: Option<CommitPosition>, max_lag: Duration) {
        let lag = {
            let mut samples = lock(&self.samples);
            samples.pass(reached);
            samples.lag(Instant::now())
        };
        let is_other = primary.is_some_and(|primary| primary.timeline != reached.timeline);
        self.enter(match is_other {
            true => ReplicaState::OnOtherTimeline,
            false if lag > max_lag => ReplicaState::Lagging,
            false => ReplicaState::Following,
        });
    }

    /// Notes a position of the primary.
    pub(crate) fn expect(&self, primary: CommitPosition) {
        lock(&self.samples).push(Instant::now(), primary);
    }

    /// Notes that the replica cannot be compared with the primary.
    pub(crate) fn note_fault(&self, fault: &Fault) {
        // A table that is missing will come with the log of the primary.
        let is_temporary = fault.is_of_start() || fault.remedy() != Remedy::None || fault.is_of_missing_table();
        let why = described(fault);
        self.enter(if is_temporary { ReplicaState::Unreachable(why) } else { ReplicaState::Refused(why) });
    }

    /// Changes the state, and reports a change in the log.
    fn enter(&self, new: ReplicaState) {
        let mut state = lock(&self.state);
        if std::mem::discriminant(&*state) != std::mem::discriminant(&new) {
            let replica = self.connector.address();
            match &new {
                ReplicaState::Unknown => {}
                ReplicaState::Following => tracing::info!(%replica, "reading from a replica of the database"),
                ReplicaState::Lagging => {
                    let lag_s = self.lag().as_secs_f64();
                    tracing::warn!(%replica, lag_s, "a replica of the database lags; reading from the primary");
                }
                ReplicaState::OnOtherTimeline => tracing::warn!(
                    %replica,
                    "a replica of the database has not followed the primary to its timeline; reading from the primary"
                ),
                ReplicaState::Unreachable(why) => {
                    tracing::warn!(%replica, "a replica of the database does not answer; reading from the primary: {why}");
                }
                ReplicaState::Refused(why) => {
                    tracing::warn!(%replica, "a replica of the database cannot be used; reading from the primary: {why}");
                }
            }
        }
        *state = new;
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connector.address().fmt(f)
    }
}

/// Reads how far a replica is. A session that does not answer in time is closed.
pub(crate) async fn replayed_in_time(session: &Session) -> Result<CommitPosition, Fault> {
    match tokio::time::timeout(ANSWERS_WITHIN, replayed(session)).await {
        Ok(replayed) => replayed,
        Err(_) => {
            session.cut();
            Err(Fault::Late(ANSWERS_WITHIN.as_secs()))
        }
    }
}

async fn replayed(session: &Session) -> Result<CommitPosition, Fault> {
    let rows = session.query(REPLAYED, &[]).await?;
    let mut columns = Columns::of(one(&rows)?);
    if !columns.next::<bool>()? {
        return Err(Fault::Primary);
    }
    Ok(CommitPosition { timeline: columns.next()?, offset: columns.next()? })
}

impl Samples {
    fn push(&mut self, at: Instant, primary: CommitPosition) {
        let is_new = self.0.back().is_none_or(|(_, last)| *last != primary);
        if is_new && self.0.len() < MOST_SAMPLES {
            self.0.push_back((at, primary));
        }
    }

    /// Removes the positions that a replica has reached. Those of earlier timelines are not expected any
    /// more.
    fn pass(&mut self, reached: CommitPosition) {
        let is_passed = |sample: CommitPosition| reached.includes(sample) || reached.timeline > sample.timeline;
        while self.0.front().is_some_and(|(_, sample)| is_passed(*sample)) {
            self.0.pop_front();
        }
    }

    fn lag(&self, now: Instant) -> Duration {
        self.0.front().map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_the_age_of_the_oldest_position_that_was_not_reached() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let at = |timeline, offset| CommitPosition { timeline, offset };
        let mut samples = Samples::default();
        assert_eq!(samples.lag(begun), Duration::ZERO);
        for (number, offset) in [(0, 10), (1, 20), (2, 20), (3, 30)] {
            samples.push(begun + second * number, at(1, offset));
        }
        let now = begun + second * 4;
        samples.pass(at(1, 9));
        assert_eq!(samples.lag(now), second * 4);
        samples.pass(at(1, 10));
        assert_eq!(samples.lag(now), second * 3);
        samples.pass(at(1, 25));
        assert_eq!(samples.lag(now), second);
        samples.pass(at(1, 30));
        assert_eq!(samples.lag(now), Duration::ZERO);
        // After a failover, what the new primary has does not count until the replica has followed it.
        samples.push(now, at(2, 15));
        samples.pass(at(1, 40));
        assert_eq!(samples.lag(now + second), second);
        samples.pass(at(2, 15));
        assert_eq!(samples.lag(now + second), Duration::ZERO);
    }

    #[test]
    fn a_long_lag_needs_a_bounded_memory() {
        let begun = Instant::now();
        let mut samples = Samples::default();
        for offset in 0..5_000 {
            samples.push(begun, CommitPosition { timeline: 1, offset: offset + 1 });
        }
        assert_eq!(samples.0.len(), MOST_SAMPLES);
        assert_eq!(samples.0.front().unwrap().1.offset, 1);
    }
}
