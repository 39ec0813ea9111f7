//! The health of an endpoint, and its consequences: the circuit breaker, warnings, and disabling.
//!
//! The breaker protects a receiver that is down, and the deliveries to it: while it is open, nothing is sent
//! and no attempt is used up. After a pause one delivery goes out as a probe; a success closes the breaker.
//! An endpoint that has failed for days without a success is disabled, and operators are warned before.
//!
//! Pure: instants and random numbers are arguments. [`Health`] is the stored part, to which all nodes
//! contribute their [`HealthChange`]s; the rest exists only in this process.

use std::collections::VecDeque;
use std::time::Duration;

use domain::endpoint::Health;
use domain::health::{BreakerState, HealthChange};
use domain::time::Timestamp;

/// The window over which the failure rate is measured.
const WINDOW: Duration = Duration::from_mins(5);

/// Length of the slices that the window consists of.
const PIECE: Duration = Duration::from_secs(10);

/// Minimum number of attempts in the window for the failure rate to count.
const MIN_SAMPLES: u32 = 10;

/// Failure rate that opens the breaker, in percent.
const TOO_MANY_PERCENT: u32 = 70;

/// Progress towards being disabled at which operators are warned, in percent (webhooks E8).
const WARNINGS: [u8; 4] = [50, 70, 90, 100];

/// Minimum number of abandoned deliveries before an endpoint is disabled (webhooks E5).
const MIN_EXHAUSTED: u32 = 2;

/// Thresholds for opening the breaker and for disabling an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthRules {
    /// Number of consecutive failures that opens the breaker. With 0 it never opens.
    pub breaker_failures: u32,
    /// Minimum time for which the breaker stays open before a probe; random jitter extends it up to twice as
    /// long.
    pub breaker_pause: Duration,
    /// Time with nothing but failures after which an endpoint is disabled.
    pub disable_after: Duration,
}

impl HealthRules {
    pub(crate) fn longest_pause(&self) -> Duration {
        self.breaker_pause.saturating_mul(2)
    }
}

impl Default for HealthRules {
    fn default() -> Self {
        Self {
            breaker_failures: 10,
            breaker_pause: Duration::from_secs(30),
            disable_after: Duration::from_hours(5 * 24),
        }
    }
}

/// The health signal that an attempt gives about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthSignal {
    Good,
    Bad {
        /// Set if it was the last attempt at its delivery.
        exhausted: bool,
    },
    /// A failure that counts only towards the breaker (webhooks C5).
    BadProgress,
    /// No signal: a failed test, an aborted attempt, or a working receiver that rejected one message.
    Neither,
}

/// The consequences of a health signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HealthConsequence {
    pub(crate) breaker: Option<BreakerChange>,
    /// Progress towards being disabled, in percent, if operators are to be warned of it.
    pub(crate) warn: Option<u8>,
    pub(crate) disable: bool,
}

/// A change of the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BreakerChange {
    Opened { until: Timestamp },
    Closed,
}

/// The health of one endpoint, as this process knows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthTracker {
    /// The health as last read, with the effect of the attempts of this process since.
    pub(crate) health: Health,
    /// The part of that effect whose writing has not begun.
    unwritten: HealthChange,
    /// The part that is being written.
    writing: HealthChange,
    /// Attempts of the last minutes, oldest first.
    window: VecDeque<WindowSlice>,
}

#[derive(Debug, Clone, Copy)]
struct WindowSlice {
    from: Timestamp,
    good: u32,
    bad: u32,
}

impl HealthTracker {
    pub(crate) fn of(health: Health) -> Self {
        Self { health, ..Self::default() }
    }

    /// Replaces the health with that read from the outbox, which other nodes have changed, unless the effect
    /// of own attempts is still to be written.
    pub(crate) fn follow(&mut self, stored: Health) {
        if self.unwritten.is_empty() && self.writing.is_empty() {
            self.health = stored;
        }
    }

    /// Returns the change to be written, if there is one.
    pub(crate) fn begin_writing(&mut self) -> Option<HealthChange> {
        self.writing = self.writing.then(&std::mem::take(&mut self.unwritten));
        (!self.writing.is_empty()).then_some(self.writing)
    }

    pub(crate) fn end_writing(&mut self) {
        self.writing = HealthChange::default();
    }

    fn apply(&mut self, change: &HealthChange) {
        self.health = self.health.after(change);
        self.unwritten = self.unwritten.then(change);
    }

    pub(crate) fn breaker_state(&self, rules: &HealthRules, now: Timestamp) -> BreakerState {
        BreakerState::of(self.health.open_until, rules.longest_pause(), now)
    }

    /// Records an attempt. `may_disable` is set if the endpoint's settings allow disabling it. `failing_for`
    /// is the time for which it had failed before this attempt. `chance` is from 0 to 1.
    pub(crate) fn note(
        &mut self,
        sign: HealthSignal,
        rules: &HealthRules,
        may_disable: bool,
        now: Timestamp,
        failing_for: Duration,
        chance: f64,
    ) -> HealthConsequence {
        match sign {
            HealthSignal::Neither => HealthConsequence::default(),
            HealthSignal::Good => {
                self.count(true, now);
                let was_open = self.health.open_until.is_some();
                if self.health != Health::default() {
                    self.apply(&HealthChange { has_succeeded: true, ..HealthChange::default() });
                }
                if was_open {
                    self.window.clear();
                }
                HealthConsequence { breaker: was_open.then_some(BreakerChange::Closed), ..HealthConsequence::default() }
            }
            HealthSignal::BadProgress => {
                HealthConsequence { breaker: self.fail(rules, now, chance), ..HealthConsequence::default() }
            }
            HealthSignal::Bad { exhausted } => {
                let breaker = self.fail(rules, now, chance);
                // A start of failures that was recorded by a clock ahead of this one is moved to now.
                let percent = if may_disable { percent(rules, failing_for) } else { 0 };
                let warn = WARNINGS.into_iter().rfind(|step| *step <= percent && *step > self.health.warned_percent);
                self.apply(&HealthChange {
                    failing_since: Some(now),
                    exhausted: u32::from(exhausted),
                    warned_percent: warn.unwrap_or_default(),
                    ..HealthChange::default()
                });
                let disable = percent == 100 && self.health.exhausted >= MIN_EXHAUSTED;
                HealthConsequence { breaker, warn, disable }
            }
        }
    }

    /// Counts a failure, and returns the change if it opened the breaker.
    fn fail(&mut self, rules: &HealthRules, now: Timestamp, chance: f64) -> Option<BreakerChange> {
        self.count(false, now);
        self.apply(&HealthChange { failures: 1, ..HealthChange::default() });
        let opens = match self.breaker_state(rules, now) {
            BreakerState::Open { .. } => false,
            BreakerState::HalfOpen => true,
            BreakerState::Closed => rules.breaker_failures > 0 && self.is_failing(rules.breaker_failures),
        };
        opens.then(|| {
            let until = now.plus(rules.breaker_pause.mul_f64(1.0 + chance.clamp(0.0, 1.0)));
            self.apply(&HealthChange { opened_until: Some(until), ..HealthChange::default() });
            BreakerChange::Opened { until }
        })
    }

    /// webhooks E4: reports whether there are too many consecutive failures, or too many among the latest
    /// attempts.
    fn is_failing(&self, in_a_row: u32) -> bool {
        let bad: u32 = self.window.iter().map(|piece| piece.bad).sum();
        let all: u32 = self.window.iter().map(|piece| piece.bad.saturating_add(piece.good)).sum();
        let share = u64::from(bad) * 100 >= u64::from(all) * u64::from(TOO_MANY_PERCENT);
        self.health.consecutive_failures >= in_a_row || (all >= MIN_SAMPLES && share)
    }

    fn count(&mut self, good: bool, now: Timestamp) {
        let is_over = |piece: &WindowSlice| now < piece.from || now.since(piece.from) >= WINDOW;
        while self.window.front().is_some_and(is_over) {
            self.window.pop_front();
        }
        if self.window.back().is_none_or(|newest| now.since(newest.from) >= PIECE) {
            self.window.push_back(WindowSlice { from: now, good: 0, bad: 0 });
        }
        if let Some(newest) = self.window.back_mut() {
            let count = if good { &mut newest.good } else { &mut newest.bad };
            *count = count.saturating_add(1);
        }
    }
}

/// Returns the progress towards being disabled of an endpoint that has failed for this long, in percent.
fn percent(rules: &HealthRules, failing_for: Duration) -> u8 {
    let (failing_ms, limit_ms) = (failing_for.as_millis(), rules.disable_after.as_millis().max(1));
    u8::try_from((failing_ms * 100 / limit_ms).min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: HealthSignal = HealthSignal::Bad { exhausted: false };
    const DEAD: HealthSignal = HealthSignal::Bad { exhausted: true };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_795_300_290_000).plus(Duration::from_secs(seconds))
    }

    fn day(count: u64) -> u64 {
        count * 86_400
    }

    fn note(tracker: &mut HealthTracker, sign: HealthSignal, seconds: u64) -> HealthConsequence {
        let failing_for = tracker.health.failing_since.map_or(Duration::ZERO, |since| at(seconds).since(since));
        tracker.note(sign, &HealthRules::default(), true, at(seconds), failing_for, 0.5)
    }

    /// webhooks E4.
    #[test]
    fn ten_failures_in_a_row_open_the_breaker_and_one_success_closes_it() {
        let mut tracker = HealthTracker::default();
        // Far apart, so that only consecutive failures count.
        for second in (0..9).map(|n| n * 400) {
            assert_eq!(note(&mut tracker, BAD, second), HealthConsequence::default());
            assert_eq!(tracker.breaker_state(&HealthRules::default(), at(second)), BreakerState::Closed);
        }
        let until = at(3600 + 45);
        assert_eq!(note(&mut tracker, BAD, 3600).breaker, Some(BreakerChange::Opened { until }));
        assert_eq!(tracker.breaker_state(&HealthRules::default(), at(3644)), BreakerState::Open { until });
        assert_eq!(note(&mut tracker, BAD, 3610).breaker, None, "one that was on its way changes nothing");
        assert_eq!(tracker.breaker_state(&HealthRules::default(), at(3645)), BreakerState::HalfOpen);

        let again = at(3650 + 45);
        assert_eq!(
            note(&mut tracker, BAD, 3650).breaker,
            Some(BreakerChange::Opened { until: again }),
            "the probe failed"
        );
        assert_eq!(note(&mut tracker, HealthSignal::Good, 3700).breaker, Some(BreakerChange::Closed));
        assert_eq!(
            (tracker.breaker_state(&HealthRules::default(), at(3700)), tracker.health),
            (BreakerState::Closed, Health::default())
        );
        assert_eq!(note(&mut tracker, BAD, 3701).breaker, None, "it begins anew");
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_noted_ends_with_it() {
        let (mut tracker, rules) = (HealthTracker::default(), HealthRules::default());
        let ahead = day(30);
        for _ in 0..10 {
            note(&mut tracker, DEAD, ahead);
        }
        assert!(matches!(tracker.breaker_state(&rules, at(ahead)), BreakerState::Open { .. }));
        assert_eq!(tracker.breaker_state(&rules, at(0)), BreakerState::HalfOpen);
        let until = at(45);
        assert_eq!(note(&mut tracker, BAD, 0).breaker, Some(BreakerChange::Opened { until }), "the probe failed");
        assert_eq!(tracker.health.failing_since, Some(at(0)));
        assert_eq!(note(&mut tracker, BAD, day(5)).warn, Some(100), "counted from when the clock was right");
    }

    /// webhooks E4: seven of ten attempts within five minutes, in any order.
    #[test]
    fn a_large_share_of_failures_opens_the_breaker() {
        let attempts = |signs: &[HealthSignal], apart: u64| {
            let mut tracker = HealthTracker::default();
            let noted = signs.iter().zip(0..).map(|(sign, n)| note(&mut tracker, *sign, n * apart).breaker);
            noted.collect::<Vec<_>>().last().unwrap().is_some()
        };
        let seven = [BAD, BAD, HealthSignal::Good, BAD, BAD, HealthSignal::Good, BAD, HealthSignal::Good, BAD, BAD];
        let six = [
            BAD,
            BAD,
            HealthSignal::Good,
            BAD,
            HealthSignal::Good,
            HealthSignal::Good,
            BAD,
            HealthSignal::Good,
            BAD,
            BAD,
        ];
        assert!(attempts(&seven, 20));
        assert!(!attempts(&six, 20), "60 percent");
        assert!(!attempts(&seven[1..], 20), "nine are too few");
        assert!(!attempts(&seven, 60), "the first have been forgotten");
    }

    #[test]
    fn the_pause_is_varied_and_the_breaker_can_be_off() {
        for (chance, seconds) in [(0.0, 30), (1.0, 60), (7.0, 60)] {
            let mut tracker = HealthTracker::of(Health { consecutive_failures: 9, ..Health::default() });
            let opened = tracker.note(BAD, &HealthRules::default(), true, at(0), Duration::ZERO, chance).breaker;
            assert_eq!(opened, Some(BreakerChange::Opened { until: at(seconds) }));
        }
        let off = HealthRules { breaker_failures: 0, ..HealthRules::default() };
        let mut tracker = HealthTracker::default();
        assert!((0..100).all(|n| tracker.note(BAD, &off, true, at(n), Duration::ZERO, 0.5).breaker.is_none()));
    }

    /// webhooks E5, E8: operators are warned at 50, 70, 90 and 100 percent, once each; then the endpoint is
    /// disabled.
    #[test]
    fn five_days_of_failures_disable_and_are_announced() {
        let mut tracker = HealthTracker::default();
        note(&mut tracker, DEAD, 0);
        let hours = 120;
        let told: Vec<(u64, u8)> = (1..hours)
            .filter_map(|hour| {
                let came = note(&mut tracker, BAD, hour * 3600);
                assert!(!came.disable);
                came.warn.map(|percent| (hour, percent))
            })
            .collect();
        assert_eq!(told, [(60, 50), (84, 70), (108, 90)]);
        let last = note(&mut tracker, BAD, day(5));
        assert_eq!((last.warn, last.disable), (Some(100), false), "one exhausted delivery is not enough");
        let end = note(&mut tracker, DEAD, day(5) + 1);
        assert_eq!((end.warn, end.disable), (None, true));
    }

    #[test]
    fn a_success_forgets_all_failures() {
        let mut tracker = HealthTracker::default();
        note(&mut tracker, DEAD, 0);
        note(&mut tracker, DEAD, day(4));
        assert_eq!(tracker.health.warned_percent, 70);
        note(&mut tracker, HealthSignal::Good, day(4) + 1);
        assert_eq!(note(&mut tracker, DEAD, day(6)), HealthConsequence::default());
        assert_eq!(tracker.health.failing_since, Some(at(day(6))));
    }

    /// webhooks C5, and `auto_disable` of an endpoint.
    #[test]
    fn some_failures_never_disable() {
        let mut tracker = HealthTracker::default();
        for seconds in [0, day(3), day(6)] {
            let came = note(&mut tracker, HealthSignal::BadProgress, seconds);
            assert_eq!((came.warn, came.disable), (None, false));
        }
        assert_eq!(tracker.health.failing_since, None);
        assert_eq!(note(&mut tracker, HealthSignal::Neither, day(7)), HealthConsequence::default());

        let mut kept = HealthTracker::default();
        for seconds in [0, 1, day(9)] {
            let came = kept.note(DEAD, &HealthRules::default(), false, at(seconds), Duration::from_secs(seconds), 0.5);
            assert_eq!((came.warn, came.disable), (None, false));
        }
    }
}
