//! The time of day, and the rule for deadlines when the clock is set.
//!
//! Deadlines are stored, compared and reported as times of day, so that they mean the same to a client, after
//! a restart and on another machine. The clock compares each reading with a monotonic time, and detects a
//! step when the two diverge:
//!
//! - **Ahead** (the clock was set, or the machine slept): no process could act during the skipped time. It
//!   does not count against periods that began before the step ([`Clock::extended`], [`Clock::elapsed`],
//!   [`Clock::ago`]). Periods that begin afterwards have exactly their nominal length.
//! - **Back**: a period that appears to have begun after now is treated as begun now. Nothing else marks a
//!   deadline set by a clock that was ahead, and nothing else is needed, so the same rule holds after a
//!   restart. Owners of stored deadlines search for such rows when they start and whenever [`Clock::steps`]
//!   has changed.
//!
//! The state provides the clock ([`Store::clock`](crate::Store::clock)), and no other component makes one: a
//! single clock writes and judges rows, regardless of the number of nodes. A state on this machine provides
//! the [machine's clock](Clock::system). A state on a server measures the distance of the server's `now()`
//! from the machine's monotonic clock, at the midpoint between query and response, and repeats that every few
//! seconds; between two measurements its readings follow the monotonic clock. A small correction stays below
//! the smallest step and is not a step. When the server's clock is set, the next measurement is a step, for
//! every node alike; when a node's own clock is set, nothing happens.
//!
//! The steps themselves are not stored: after a restart the skipped time counts against every period that was
//! not written since.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::lock::lock;
use domain::time::Timestamp;

/// Smaller steps are ignored, because no deadline is that precise.
const SMALLEST_STEP_MS: i64 = 30_000;

/// The maximum number of remembered steps ahead; the newest are kept. It covers more than half a year of
/// nightly sleep.
const MAX_GAPS: usize = 256;

/// The time of day, and the monotonic time for which the clock has been running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    pub time_of_day: Timestamp,
    pub running: Duration,
}

/// A clock that returns the time of day and detects when it was set. Clones share one clock.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    read: Box<dyn Fn() -> ClockReading + Send + Sync>,
    steps: Mutex<ClockSteps>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&*self.lock()).finish()
    }
}

impl Clock {
    /// Makes a clock from a source of readings.
    pub fn new(read: impl Fn() -> ClockReading + Send + Sync + 'static) -> Self {
        let steps = ClockSteps { seen: read(), gaps: VecDeque::new(), count: 0 };
        Self(Arc::new(Inner { read: Box::new(read), steps: Mutex::new(steps) }))
    }

    /// Makes the clock of the machine, for adapters of the state on one machine. All other code uses the
    /// clock that they provide.
    #[expect(clippy::disallowed_methods, reason = "this is where the time of day comes from")]
    pub fn system() -> Self {
        let begun = Instant::now();
        Self::new(move || {
            let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            ClockReading { time_of_day: Timestamp::from_unix_ms(0).plus(since_1970), running: begun.elapsed() }
        })
    }

    /// Returns the time of day.
    pub fn now(&self) -> Timestamp {
        let (now, step) = {
            let mut steps = self.lock();
            // The reading is taken under the lock, so that readings are observed in their order.
            let reading = (self.0.read)();
            (reading.time_of_day, steps.observe(reading))
        };
        match step {
            None => {}
            Some(ClockStep::Ahead(by)) => tracing::warn!(
                ahead_s = by.as_secs(),
                "the system clock jumped ahead; deadlines set before the jump are extended by it"
            ),
            Some(ClockStep::Back(by)) => tracing::warn!(
                back_s = by.as_secs(),
                "the system clock was set back; waits set while it was ahead start now"
            ),
        }
        now
    }

    /// Extends a deadline set at `since` by the time skipped before it was reached.
    pub fn extended(&self, since: Timestamp, deadline: Timestamp) -> Timestamp {
        self.now();
        self.lock().extended(since, deadline)
    }

    /// Returns the time since `since` without the skipped time; zero if `since` is in the future.
    pub fn elapsed(&self, since: Timestamp) -> Duration {
        let now = self.now();
        self.lock().elapsed(since, now)
    }

    /// Returns the time of day that lies `span` in the past, not counting skipped time.
    pub fn ago(&self, span: Duration) -> Timestamp {
        let now = self.now();
        self.lock().before(now, span)
    }

    /// Returns the number of times the clock was set so far. If the number has changed, deadlines may have to
    /// be adjusted.
    pub fn steps(&self) -> u64 {
        self.now();
        self.lock().count
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ClockSteps> {
        lock(&self.0.steps)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClockStep {
    Ahead(Duration),
    Back(Duration),
}

#[derive(Debug)]
struct ClockSteps {
    seen: ClockReading,
    /// Steps ahead, oldest first.
    gaps: VecDeque<SkippedTime>,
    count: u64,
}

/// A step ahead between two readings.
#[derive(Debug, Clone, Copy)]
struct SkippedTime {
    before: Timestamp,
    after: Timestamp,
    /// The part of the time between the readings that did not pass.
    missing: Duration,
}

impl SkippedTime {
    /// Returns the end of the skipped time, on the time scale before the step.
    fn end(&self) -> Timestamp {
        self.after.minus(self.missing)
    }
}

impl ClockSteps {
    fn observe(&mut self, reading: ClockReading) -> Option<ClockStep> {
        let passed = reading.running.saturating_sub(self.seen.running);
        let expected = self.seen.time_of_day.plus(passed);
        let (before, after) = (self.seen.time_of_day, reading.time_of_day);
        self.seen = reading;
        let off_ms = after.unix_ms().saturating_sub(expected.unix_ms());
        if off_ms.saturating_abs() <= SMALLEST_STEP_MS {
            return None;
        }
        self.count += 1;
        let off = Duration::from_millis(off_ms.unsigned_abs());
        if off_ms < 0 {
            self.undo_skips(off);
            return Some(ClockStep::Back(off));
        }
        if self.gaps.len() == MAX_GAPS {
            self.gaps.pop_front();
        }
        self.gaps.push_back(SkippedTime { before, after, missing: off });
        Some(ClockStep::Ahead(off))
    }

    /// Lets a step back first undo earlier steps ahead: the clock was wrong, and no time was skipped.
    fn undo_skips(&mut self, mut by: Duration) {
        while let Some(newest) = self.gaps.back_mut() {
            if newest.missing > by {
                newest.missing -= by;
                newest.after = newest.after.minus(by);
                return;
            }
            by -= newest.missing;
            self.gaps.pop_back();
        }
    }

    fn extended(&self, since: Timestamp, deadline: Timestamp) -> Timestamp {
        self.gaps.iter().fold(deadline, |deadline, gap| {
            let was_running = since <= gap.before && gap.before < deadline;
            if was_running { deadline.plus(gap.missing) } else { deadline }
        })
    }

    fn elapsed(&self, since: Timestamp, now: Timestamp) -> Duration {
        let missing = self.gaps.iter().filter(|gap| since <= gap.before).map(|gap| gap.missing);
        now.since(since).saturating_sub(missing.sum())
    }

    fn before(&self, now: Timestamp, span: Duration) -> Timestamp {
        let (mut at, mut left) = (now, span);
        for gap in self.gaps.iter().rev() {
            let since_gap = at.since(gap.after);
            if since_gap >= left {
                break;
            }
            left -= since_gap;
            at = gap.end();
        }
        at.minus(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_hours(1);
    const BEGIN: Timestamp = Timestamp::from_unix_ms(1_795_300_290_000);

    /// A clock that a test controls.
    #[derive(Clone)]
    struct ManualClock(Arc<Mutex<ClockReading>>);

    impl ManualClock {
        fn new() -> (Self, Clock) {
            let hands = Self(Arc::new(Mutex::new(ClockReading { time_of_day: BEGIN, running: Duration::ZERO })));
            let read = hands.clone();
            (hands, Clock::new(move || *read.0.lock().unwrap()))
        }

        fn pass(&self, span: Duration) {
            let mut reading = self.0.lock().unwrap();
            reading.time_of_day = reading.time_of_day.plus(span);
            reading.running += span;
        }

        fn ahead(&self, span: Duration) {
            let mut reading = self.0.lock().unwrap();
            reading.time_of_day = reading.time_of_day.plus(span);
        }

        fn back(&self, span: Duration) {
            let mut reading = self.0.lock().unwrap();
            reading.time_of_day = reading.time_of_day.minus(span);
        }
    }

    #[test]
    fn time_that_passes_is_no_step_and_neither_is_a_small_correction() {
        let (hands, clock) = ManualClock::new();
        for (passes, ahead, back) in [(3_600, 0, 0), (60, 30, 0), (60, 0, 30), (0, 0, 0)] {
            hands.pass(Duration::from_secs(passes));
            hands.ahead(Duration::from_secs(ahead));
            hands.back(Duration::from_secs(back));
            assert_eq!(clock.steps(), 0);
        }
        hands.ahead(Duration::from_secs(31));
        assert_eq!(clock.steps(), 1);
        hands.back(Duration::from_secs(31));
        assert_eq!(clock.steps(), 2);
    }

    #[test]
    fn a_step_ahead_extends_what_was_running_and_nothing_else() {
        let (hands, clock) = ManualClock::new();
        let old = clock.now();
        let over = old.plus(Duration::from_secs(1));
        hands.pass(Duration::from_secs(2));
        clock.now();
        hands.ahead(10 * HOUR);
        let new = clock.now();
        assert_eq!(clock.extended(old, old.plus(24 * HOUR)), old.plus(34 * HOUR));
        assert_eq!(clock.extended(old, over), over, "it was over before");
        assert_eq!(clock.extended(new, new.plus(HOUR)), new.plus(HOUR), "it began afterwards");
        assert_eq!(clock.elapsed(old), Duration::from_secs(2));
        assert_eq!(clock.ago(Duration::from_secs(2)), old);
        hands.pass(HOUR);
        assert_eq!((clock.elapsed(new), clock.ago(HOUR)), (HOUR, new));
    }

    #[test]
    fn a_step_back_undoes_the_step_ahead_before_it() {
        let (hands, clock) = ManualClock::new();
        let old = clock.now();
        hands.ahead(10 * HOUR);
        clock.now();
        hands.back(4 * HOUR);
        assert_eq!(clock.extended(old, old.plus(HOUR)), old.plus(7 * HOUR));
        hands.back(9 * HOUR);
        clock.now();
        assert_eq!(clock.extended(old, old.plus(HOUR)), old.plus(HOUR));
        assert_eq!(clock.elapsed(old), Duration::ZERO, "it is still to come");
        assert_eq!(clock.steps(), 3);
    }

    #[test]
    fn only_the_newest_steps_are_remembered() {
        let (hands, clock) = ManualClock::new();
        let old = clock.now();
        for _ in 0..MAX_GAPS + 10 {
            hands.pass(HOUR);
            clock.now();
            hands.ahead(HOUR);
            clock.now();
        }
        let most = u32::try_from(MAX_GAPS).unwrap();
        assert_eq!(clock.extended(old, old.plus(1_000 * HOUR)), old.plus((1_000 + most) * HOUR));
    }

    proptest! {
        /// The three methods agree on the moment at which a period is over.
        #[test]
        fn a_span_is_over_by_every_measure_at_once(
            turns in prop::collection::vec((0_u64..100_000, 0_u64..100_000), 1..20),
            begins_at in 0_usize..20,
            span_s in 1_u64..1_000_000,
        ) {
            let (hands, clock) = ManualClock::new();
            let mut since = clock.now();
            for (at, (passes, ahead)) in turns.into_iter().enumerate() {
                hands.pass(Duration::from_secs(passes));
                let now = clock.now();
                if at == begins_at {
                    since = now;
                }
                hands.ahead(Duration::from_secs(ahead));
                clock.now();
            }
            let (now, span) = (clock.now(), Duration::from_secs(span_s));
            let is_over = clock.elapsed(since) >= span;
            prop_assert_eq!(clock.extended(since, since.plus(span)) <= now, is_over);
            prop_assert_eq!(since <= clock.ago(span), is_over);
        }
    }
}
