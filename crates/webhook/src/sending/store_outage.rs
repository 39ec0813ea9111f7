//! Handling of an outage of the state store: one log line when it begins, one when it ends, and growing waits
//! in between.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct StoreOutage {
    /// The task that fails meanwhile, as a phrase that follows "could not".
    task: &'static str,
    now: Option<Ongoing>,
}

#[derive(Debug)]
struct Ongoing {
    since: Instant,
    pause: Duration,
}

impl StoreOutage {
    pub(crate) fn none(task: &'static str) -> Self {
        Self { task, now: None }
    }

    /// Records a failure and returns the time to wait before the next attempt, with jitter. `jitter` is from
    /// 0 to 1.
    pub(crate) fn failed(&mut self, error: &state::Error, jitter: f64) -> Duration {
        let error: &(dyn std::error::Error + 'static) = error;
        let pause = match &mut self.now {
            Some(ongoing) => {
                tracing::debug!(error, "still could not {}", self.task);
                ongoing.pause = (ongoing.pause * 2).min(LONGEST_PAUSE);
                ongoing.pause
            }
            none => {
                tracing::error!(error, "could not {}; retrying until it succeeds", self.task);
                *none = Some(Ongoing { since: Instant::now(), pause: FIRST_PAUSE });
                FIRST_PAUSE
            }
        };
        around(pause, jitter).min(LONGEST_PAUSE)
    }

    pub(crate) fn over(&mut self) {
        if let Some(ongoing) = self.now.take() {
            let outage_ms = ongoing.since.elapsed().as_millis();
            tracing::info!(outage_ms, "can {} again", self.task);
        }
    }
}

/// Returns the span, randomly shortened or lengthened by up to a fifth.
pub(crate) fn around(span: Duration, jitter: f64) -> Duration {
    span.mul_f64(0.8 + 0.4 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_five_seconds_and_begin_anew() {
        let error = || state::Error::NoSpace { operation: "claim deliveries" };
        let mut outage = StoreOutage::none("claim deliveries");
        let pauses: Vec<Duration> = (0..9).map(|_| outage.failed(&error(), 0.5)).collect();
        assert_eq!(pauses[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(pauses[8], LONGEST_PAUSE);
        outage.over();
        assert_eq!(outage.failed(&error(), 0.0), Duration::from_millis(80));
    }
}
