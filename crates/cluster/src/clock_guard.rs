//! Keeps a node from writing while its clock is wrong.
//!
//! Leases and due times follow the clock of the state, so a wrong clock of a node ends none of them early.
//! But certificates and signed requests are judged by the node's own clock, and an operator who compares
//! logs relies on it. A node whose clock is far off therefore hands over its uploads until the clock is
//! right.

use std::fmt;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use engine::Engine;
use engine::command::Unavailable;

/// Limits of the difference between the clock of this node and that of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockLimits {
    /// The clock is compared this often.
    pub compare_every: Duration,
    /// A larger difference is logged.
    pub warn_at: Duration,
    /// At this difference the node hands over its uploads.
    pub stop_at: Duration,
    /// The maximum time to wait for the last commits of live uploads.
    pub commit_within: Duration,
}

impl Default for ClockLimits {
    fn default() -> Self {
        Self {
            compare_every: Duration::from_secs(1),
            warn_at: Duration::from_millis(500),
            stop_at: Duration::from_secs(60),
            commit_within: Duration::from_secs(10),
        }
    }
}

/// Compares the clock of this node with that of the state.
pub struct ClockGuard {
    engine: Engine,
    limits: ClockLimits,
    offset_seconds: Box<dyn Fn() -> f64 + Send + Sync>,
    judged: ClockVerdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClockVerdict {
    Right,
    Off,
    Wrong,
}

impl ClockGuard {
    /// Creates the guard of an engine. `offset_seconds` returns how far the clock of this node is ahead.
    pub fn new(engine: Engine, limits: ClockLimits, offset_seconds: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self { engine, limits, offset_seconds: Box::new(offset_seconds), judged: ClockVerdict::Right }
    }

    /// Compares until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pace = tokio::time::interval(self.limits.compare_every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = pace.tick() => {}
            }
            self.compare().await;
        }
    }

    async fn compare(&mut self) {
        let ahead_s = (self.offset_seconds)();
        let verdict = self.limits.judge(ahead_s);
        let before = std::mem::replace(&mut self.judged, verdict);
        if before == verdict {
            return;
        }
        match verdict {
            ClockVerdict::Right => tracing::info!(ahead_s, "the clock of this machine is right again"),
            ClockVerdict::Off => tracing::warn!(ahead_s, "the clock of this machine differs from that of the database"),
            ClockVerdict::Wrong => {
                tracing::error!(
                    ahead_s,
                    "the clock of this machine is wrong; this node writes no uploads until it is right"
                );
                self.engine.announce_handover(Unavailable::WrongClock);
                self.engine.hand_over(Unavailable::WrongClock, self.limits.commit_within).await;
            }
        }
        if before == ClockVerdict::Wrong {
            self.engine.end_handover(Unavailable::WrongClock);
        }
    }
}

impl ClockLimits {
    fn judge(&self, ahead_s: f64) -> ClockVerdict {
        let off_s = ahead_s.abs();
        if off_s >= self.stop_at.as_secs_f64() {
            ClockVerdict::Wrong
        } else if off_s >= self.warn_at.as_secs_f64() {
            ClockVerdict::Off
        } else {
            ClockVerdict::Right
        }
    }
}

impl fmt::Debug for ClockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClockGuard").field("limits", &self.limits).finish_non_exhaustive()
    }
}
