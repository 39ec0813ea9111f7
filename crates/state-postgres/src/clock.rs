//! The clock of the database, as estimated by this node.
//!
//! The server reads its clock at some moment between a request and its response, so every measurement gives
//! the bounds between which that clock is at a moment of the machine's monotonic clock. A slow response gives
//! wide bounds, and does not replace what a fast one has shown: the estimates of all nodes stay close to each
//! other while nodes and database are busy. Between measurements the reading advances with the monotonic
//! clock. All nodes on one database therefore have the same time, whatever their own clocks show.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::lock::lock;
use crate::session::Session;
use crate::transaction::one;
use domain::time::Timestamp;
use state::clock::{Clock, ClockReading};

/// The interval between measurements of the server's time.
pub(crate) const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Measurements at the start, of which the most exact counts.
const MEASURED_AT_START: u32 = 4;

/// A measurement with a longer response time is ignored.
const TOO_LONG: Duration = Duration::from_secs(1);

/// The most by which two clocks that are kept by NTP move apart per second, in microseconds. Linux lets a
/// clock gain or lose 500 ppm while it is adjusted.
const DRIFT_US_PER_S: i64 = 1_000;

const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// The server's time according to the measurements so far.
#[derive(Debug, Clone)]
pub(crate) struct ServerTime {
    begun: Instant,
    /// The server's time at `begun`, in microseconds since 1970.
    at_begin_us: Arc<AtomicI64>,
    estimate: Arc<Mutex<Option<Estimate>>>,
}

/// The server's time at the beginning, in microseconds since 1970, and by how much it may differ, as of
/// `made_us` microseconds later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Estimate {
    at_begin_us: i64,
    within_us: i64,
    made_us: i64,
}

impl Estimate {
    /// Returns what one measurement shows. All times but `server_us` are microseconds since the beginning.
    fn measured(asked_us: i64, answered_us: i64, server_us: i64) -> Self {
        let within_us = answered_us.saturating_sub(asked_us).div_euclid(2);
        let at_begin_us = server_us.saturating_sub(asked_us.saturating_add(within_us));
        Self { at_begin_us, within_us, made_us: answered_us }
    }

    /// Returns the estimate after another measurement: that one if it is more exact. Otherwise this one stays
    /// as far as the other allows; a clock that has been set moves it.
    fn corrected(self, other: Self) -> Self {
        let age_us = other.made_us.saturating_sub(self.made_us);
        let within_us = self.within_us.saturating_add(age_us.saturating_mul(DRIFT_US_PER_S) / 1_000_000);
        if other.within_us <= within_us {
            return other;
        }
        let (lowest, highest) =
            (other.at_begin_us.saturating_sub(other.within_us), other.at_begin_us.saturating_add(other.within_us));
        let at_begin_us = self.at_begin_us.clamp(lowest, highest);
        let was_set = self.at_begin_us.abs_diff(at_begin_us) > within_us.unsigned_abs();
        Self { at_begin_us, within_us: if was_set { other.within_us * 2 } else { within_us }, made_us: other.made_us }
    }
}

impl ServerTime {
    /// Makes the first measurements.
    pub(crate) async fn measured(session: &Session) -> Result<Self, Fault> {
        let time = Self { begun: Instant::now(), at_begin_us: Arc::default(), estimate: Arc::default() };
        while !time.measure(session).await? {}
        for _ in 1..MEASURED_AT_START {
            time.measure(session).await?;
        }
        Ok(time)
    }

    /// Measures again. Returns true if the response came soon enough to count.
    pub(crate) async fn measure(&self, session: &Session) -> Result<bool, Fault> {
        let asked = self.begun.elapsed();
        let rows = session.query(NOW, &[]).await?;
        let answered = self.begun.elapsed();
        let server_us: i64 = one(&rows)?.try_get(0)?;
        if answered.saturating_sub(asked) > TOO_LONG {
            return Ok(false);
        }
        let new = Estimate::measured(microseconds(asked), microseconds(answered), server_us);
        let mut estimate = lock(&self.estimate);
        let best = estimate.map_or(new, |known| known.corrected(new));
        *estimate = Some(best);
        self.at_begin_us.store(best.at_begin_us, Ordering::Relaxed);
        Ok(true)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.reading().time_of_day
    }

    fn reading(&self) -> ClockReading {
        let running = self.begun.elapsed();
        let now_us = self.at_begin_us.load(Ordering::Relaxed).saturating_add(microseconds(running));
        ClockReading { time_of_day: Timestamp::from_unix_ms(now_us.div_euclid(1_000)), running }
    }

    /// Returns how far the clock of this machine is ahead of the server's; negative if it is behind.
    #[expect(clippy::disallowed_methods, reason = "this compares the machine's clock")]
    pub(crate) fn machine_is_ahead_ms(&self) -> i64 {
        let machine = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let machine_ms = i64::try_from(machine.as_millis()).unwrap_or(i64::MAX);
        machine_ms.saturating_sub(self.now().unix_ms())
    }

    /// Returns the clock for users of the store.
    pub(crate) fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::new(move || time.reading())
    }
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: i64 = 1_000_000;
    const NOON_US: i64 = 1_700_000_000 * SECOND_US;

    /// The measurement of a server whose clock is `ahead_us` ahead of noon, asked at `at_us`. The request and
    /// its response take the given times.
    fn measurement(at_us: i64, request_us: i64, response_us: i64, ahead_us: i64) -> Estimate {
        let read_at_us = at_us + request_us;
        Estimate::measured(at_us, read_at_us + response_us, NOON_US + ahead_us + read_at_us)
    }

    #[test]
    fn a_measurement_is_the_midpoint_and_no_further_off_than_half_the_response_time() {
        let even = measurement(0, 400, 400, 0);
        assert_eq!((even.at_begin_us, even.within_us), (NOON_US, 400));
        for (request_us, response_us) in [(0, 800), (800, 0), (0, 800_001), (123_457, 2)] {
            let uneven = measurement(SECOND_US, request_us, response_us, 0);
            let off_us = uneven.at_begin_us - NOON_US;
            assert!(off_us.abs() <= uneven.within_us + 1, "{off_us} us off, said to be within {}", uneven.within_us);
        }
    }

    #[test]
    fn a_slow_response_does_not_move_what_a_fast_one_has_shown() {
        let fast = measurement(0, 200, 200, 0);
        let slow = fast.corrected(measurement(5 * SECOND_US, 0, 900_000, 0));
        assert_eq!(slow.at_begin_us, NOON_US);
        let fast_again = slow.corrected(measurement(10 * SECOND_US, 100, 100, 300));
        assert_eq!((fast_again.at_begin_us, fast_again.within_us), (NOON_US + 300, 100), "a faster one counts");
    }

    #[test]
    fn an_old_estimate_gives_way_to_a_slower_measurement() {
        let fast = measurement(0, 200, 200, 0);
        let slow = measurement(60 * SECOND_US, 20_000, 20_000, 5_000);
        assert_eq!(fast.corrected(slow), slow, "in a minute the clocks may have moved further apart than 20 ms");
    }

    #[test]
    fn a_clock_that_was_set_is_followed_at_once() {
        for set_us in [-3_600 * SECOND_US, -SECOND_US, SECOND_US, 3_600 * SECOND_US] {
            let before = measurement(0, 200, 200, 0);
            let after = before.corrected(measurement(5 * SECOND_US, 50_000, 50_000, set_us));
            assert!((after.at_begin_us - NOON_US - set_us).abs() <= 50_000, "{set_us}: {after:?}");
            let exact = after.corrected(measurement(10 * SECOND_US, 200, 200, set_us));
            assert_eq!(exact.at_begin_us, NOON_US + set_us);
        }
    }
}
