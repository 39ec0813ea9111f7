//! Liveness of the sender: a loop that has died silently looks like a quiet day (webhooks O3).

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lock;

/// The loop polls for deliveries about every second. A loop that has not polled for this long is considered
/// dead.
const SILENCE: Duration = Duration::from_secs(30);

/// Liveness of a sender. Clones refer to the same sender.
#[derive(Debug, Clone)]
pub struct Liveness(Arc<Mutex<LivenessState>>);

#[derive(Debug)]
struct LivenessState {
    /// `None` if other nodes send.
    last_poll: Option<Instant>,
    oldest_due: Duration,
    max_due_age: Duration,
}

/// Reason why the sender is unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unhealthy {
    #[error("the webhook sender has not checked for due deliveries for {} seconds", .0.as_secs())]
    Silent(Duration),
    #[error("a delivery has been due for {} seconds and was not sent", .0.as_secs())]
    Late(Duration),
}

impl Liveness {
    /// Creates the liveness state. With a `max_due_age` of zero, deliveries may be due without limit.
    pub(crate) fn new(max_due_age: Duration) -> Self {
        Self(Arc::new(Mutex::new(LivenessState {
            last_poll: Some(Instant::now()),
            oldest_due: Duration::ZERO,
            max_due_age,
        })))
    }

    /// Creates the state of a node that leaves sending to others, and is healthy without it.
    pub(crate) fn of_other_nodes() -> Self {
        let max_due_age = Duration::ZERO;
        Self(Arc::new(Mutex::new(LivenessState { last_poll: None, oldest_due: Duration::ZERO, max_due_age })))
    }

    pub fn check(&self) -> Result<(), Unhealthy> {
        let state = self.state();
        let silent = state.last_poll.map_or(Duration::ZERO, |last_poll| last_poll.elapsed());
        if silent > SILENCE {
            return Err(Unhealthy::Silent(silent));
        }
        if !state.max_due_age.is_zero() && state.oldest_due > state.max_due_age {
            return Err(Unhealthy::Late(state.oldest_due));
        }
        Ok(())
    }

    /// Records that the loop has polled for deliveries now.
    pub(crate) fn note_poll(&self) {
        self.state().last_poll = Some(Instant::now());
    }

    pub(crate) fn set_oldest_due(&self, age: Duration) {
        self.state().oldest_due = age;
    }

    fn state(&self) -> MutexGuard<'_, LivenessState> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_and_lateness_are_noticed() {
        let liveness = Liveness::new(Duration::from_secs(60));
        tokio::time::advance(SILENCE).await;
        assert_eq!(liveness.check(), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(liveness.check(), Err(Unhealthy::Silent(Duration::from_secs(31))));
        liveness.note_poll();
        assert_eq!(liveness.check(), Ok(()));

        liveness.set_oldest_due(Duration::from_secs(61));
        assert_eq!(liveness.check(), Err(Unhealthy::Late(Duration::from_secs(61))));
        let patient = Liveness::new(Duration::ZERO);
        patient.set_oldest_due(Duration::MAX);
        assert_eq!(patient.check(), Ok(()));
    }
}
