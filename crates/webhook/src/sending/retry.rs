//! The times of retries, as arithmetic: no clock, no randomness, no I/O.
//!
//! The schedule gives the wait after the nth failure. Jitter spreads deliveries that failed together, a
//! receiver in trouble gets a minimum pause, and `Retry-After` may lengthen a wait within bounds.

use std::time::Duration;

use domain::delivery::AttemptOutcome;
use domain::time::Timestamp;

/// The default waits, from 5 seconds after the first failure: ten attempts over 75 h 35 m 05 s.
pub(crate) const DEFAULT_SCHEDULE: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];

/// Waits for progress, which is soon outdated: two attempts.
pub(crate) const PROGRESS_SCHEDULE: [Duration; 1] = [Duration::from_secs(10)];

/// No attempt at a progress event begins later than this after the event.
pub(crate) const PROGRESS_EXPIRY: Duration = Duration::from_secs(30);

/// Maximum jitter. With more, a wait could shrink to nothing.
pub const MAX_JITTER_PERCENT: u8 = 50;

/// Minimum pause of a receiver that reported overload, or did not respond in time.
const REST: Duration = Duration::from_mins(1);

/// Wait that a receiver may always request.
const GRANTED: Duration = Duration::from_hours(1);

/// Returns the wait after the `failures`th failure; `None` if there is no further attempt.
///
/// `jitter01` is a random number from 0 to 1; deliveries that failed together and drew different numbers wait
/// differently. The result lies within `jitter_percent` of the scheduled wait. Where `retry_after` requests
/// more, it lies from there on, but never beyond twice the scheduled wait or an hour, whichever is longer.
pub(crate) fn next_attempt(
    schedule: &[Duration],
    failures: u32,
    outcome: AttemptOutcome,
    retry_after: Option<Duration>,
    jitter01: f64,
    jitter_percent: u8,
) -> Option<Duration> {
    let step = usize::try_from(failures.checked_sub(1)?).ok()?;
    let share = f64::from(jitter_percent.min(MAX_JITTER_PERCENT)) / 100.0;
    let jitter = jitter01.clamp(0.0, 1.0);

    let delay = (*schedule.get(step)?).max(times(least_rest(outcome), 1.0 / (1.0 - share)));
    let scheduled = between(times(delay, 1.0 - share), times(delay, 1.0 + share), jitter);
    let Some(asked) = retry_after else { return Some(scheduled) };

    let bound = delay.saturating_mul(2).max(GRANTED);
    let width = 1.0 + 2.0 * share;
    // Spread deliveries that were given the same time. A request beyond the bound is not granted in full;
    // those deliveries are spread below the bound.
    let from = if asked > bound { times(bound, 1.0 / width) } else { asked };
    let wanted = between(from, times(from, width).min(bound), jitter);
    Some(scheduled.max(wanted))
}

fn least_rest(outcome: AttemptOutcome) -> Duration {
    match outcome {
        AttemptOutcome::Status(429) | AttemptOutcome::Timeout => REST,
        _ => Duration::ZERO,
    }
}

fn between(from: Duration, to: Duration, part: f64) -> Duration {
    from.saturating_add(times(to.saturating_sub(from), part))
}

fn times(span: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(span.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

/// The value of a `Retry-After` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryAfter {
    Wait(Duration),
    At(Timestamp),
}

impl RetryAfter {
    /// Parses whole or decimal seconds, or an HTTP date. Any other value is treated as a missing header.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let value = value.trim();
        if value.starts_with(|first: char| first.is_ascii_digit()) {
            let plain = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let seconds: f64 = value.parse().ok().filter(|_| plain)?;
            return Some(Self::Wait(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)));
        }
        let at = httpdate::parse_http_date(value).ok()?;
        let since_epoch = at.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Self::At(Timestamp::from_unix_ms(0).plus(since_epoch)))
    }

    /// Returns the wait from `now`; zero for a date that has passed.
    pub(crate) fn from(self, now: Timestamp) -> Duration {
        match self {
            Self::Wait(span) => span,
            Self::At(instant) => instant.since(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const ERROR: AttemptOutcome = AttemptOutcome::Status(503);
    const BUSY: AttemptOutcome = AttemptOutcome::Status(429);
    const HOUR: Duration = Duration::from_hours(1);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Without jitter, so that a table can state the results.
    fn plain(failures: u32, outcome: AttemptOutcome, retry_after: Option<Duration>) -> Option<Duration> {
        next_attempt(&DEFAULT_SCHEDULE, failures, outcome, retry_after, 0.9, 0)
    }

    /// webhooks R2.
    #[test]
    fn the_default_schedule_is_ten_attempts_in_75_hours() {
        let waits: Vec<Duration> = (1..).map_while(|failures| plain(failures, ERROR, None)).collect();
        assert_eq!(waits, DEFAULT_SCHEDULE);
        assert_eq!(waits.len() + 1, 10);
        assert_eq!(waits.iter().sum::<Duration>(), secs(75 * 3600 + 35 * 60 + 5));
        assert_eq!(plain(0, ERROR, None), None, "nothing has failed yet");
        assert_eq!(next_attempt(&[], 1, ERROR, None, 0.5, 20), None);
    }

    /// webhooks R5.
    #[test]
    fn a_busy_or_silent_receiver_rests_a_minute() {
        for jitter in [0.0, 0.3, 1.0] {
            for outcome in [BUSY, AttemptOutcome::Timeout] {
                let wait = next_attempt(&DEFAULT_SCHEDULE, 1, outcome, None, jitter, 20).unwrap();
                assert!((secs(60)..=secs(91)).contains(&wait), "{outcome:?} {jitter} {wait:?}");
            }
            let wait = next_attempt(&DEFAULT_SCHEDULE, 1, ERROR, None, jitter, 20).unwrap();
            assert!((secs(4)..=secs(6)).contains(&wait), "{wait:?}");
        }
        assert_eq!(plain(2, BUSY, None), Some(secs(300)), "longer than a minute already");
    }

    /// webhooks R6.
    #[test]
    fn retry_after_counts_within_bounds() {
        let table = [
            (1, ERROR, 1, 5, "not before the schedule"),
            (1, ERROR, 0, 5, "a date that has passed"),
            (1, ERROR, 7, 7, "as asked"),
            (1, ERROR, 3600, 3600, "an hour is granted always"),
            (1, ERROR, 86_400, 3600, "more is not"),
            (1, BUSY, 2, 60, "the least rest stays"),
            (4, ERROR, 86_400, 4 * 3600, "twice the schedule"),
            (4, ERROR, 3 * 3600, 3 * 3600, "within twice the schedule"),
        ];
        for (failures, outcome, asked, expected, why) in table {
            assert_eq!(plain(failures, outcome, Some(secs(asked))), Some(secs(expected)), "{why}");
        }
        assert_eq!(plain(10, ERROR, Some(secs(1))), None, "Retry-After does not add an attempt");
    }

    /// webhooks R4: also if all got the same status, or were given the same time.
    #[test]
    fn a_thousand_that_failed_together_come_back_apart() {
        let cases = [
            (ERROR, None),
            (BUSY, None),
            (ERROR, Some(secs(120))),
            (BUSY, Some(secs(90))),
            (ERROR, Some(secs(86_400))),
        ];
        for (outcome, retry_after) in cases {
            let mut waits: Vec<Duration> = (0..1000)
                .map(|_| {
                    next_attempt(&DEFAULT_SCHEDULE, 1, outcome, retry_after, rand::random(), 20)
                        .expect("an attempt is left")
                })
                .collect();
            waits.sort();
            let spread = waits[999] - waits[0];
            assert!(
                spread >= times(waits[500], 0.3),
                "{outcome:?} {retry_after:?}: {spread:?} around {:?}",
                waits[500]
            );
            // There are no clusters either: no tenth of the deliveries falls into a hundredth of the time.
            let crowded = waits.windows(100).any(|hundred| hundred[99] - hundred[0] < times(spread, 0.01));
            assert!(!crowded, "{outcome:?} {retry_after:?}");
        }
    }

    #[test]
    fn retry_after_has_three_forms() {
        let date = "Sat, 21 Nov 2026 22:31:30 GMT";
        let at = Timestamp::parse_rfc3339("2026-11-21T22:31:30Z").unwrap();
        let table = [
            ("120", Some(RetryAfter::Wait(secs(120)))),
            (" 1.5 ", Some(RetryAfter::Wait(Duration::from_millis(1500)))),
            ("0", Some(RetryAfter::Wait(Duration::ZERO))),
            ("999999999999999999999999", Some(RetryAfter::Wait(Duration::MAX))),
            (date, Some(RetryAfter::At(at))),
            ("-1", None),
            ("1e3", None),
            ("1.2.3", None),
            ("", None),
            ("soon", None),
            ("NaN", None),
            ("inf", None),
        ];
        for (text, expected) in table {
            assert_eq!(RetryAfter::parse(text), expected, "{text:?}");
        }
        assert_eq!(RetryAfter::At(at).from(at.minus(secs(9))), secs(9));
        assert_eq!(RetryAfter::At(at).from(at.plus(secs(9))), Duration::ZERO);
    }

    /// webhooks C5: a progress event that timed out gets no second attempt, because its minimum pause exceeds
    /// its expiry.
    #[test]
    fn progress_has_two_attempts() {
        assert!(next_attempt(&PROGRESS_SCHEDULE, 1, ERROR, None, 1.0, 20).unwrap() < PROGRESS_EXPIRY);
        assert_eq!(next_attempt(&PROGRESS_SCHEDULE, 2, ERROR, None, 0.5, 20), None);
        assert!(next_attempt(&PROGRESS_SCHEDULE, 1, BUSY, None, 0.0, 20).unwrap() > PROGRESS_EXPIRY);
    }

    proptest! {
        #[test]
        fn a_wait_keeps_its_bounds(
            step_ms in 1_u64..200_000_000,
            asked_ms in proptest::option::of(0_u64..500_000_000),
            status in prop_oneof![Just(500_u16), Just(429), Just(503)],
            jitter in 0.0..1.0_f64,
            percent in 0_u8..=MAX_JITTER_PERCENT,
        ) {
            let step = Duration::from_millis(step_ms);
            let asked = asked_ms.map(Duration::from_millis);
            let outcome = AttemptOutcome::Status(status);
            let wait = next_attempt(&[step], 1, outcome, asked, jitter, percent).unwrap();
            let share = f64::from(percent) / 100.0;
            let slack = Duration::from_micros(1);
            let (rest, busy) = (least_rest(outcome), times(least_rest(outcome), 1.0 / (1.0 - share)));
            let delay = step.max(busy);
            let bound = (delay * 2).max(HOUR);

            prop_assert!(wait + slack >= times(step, 1.0 - share) && wait + slack >= rest);
            prop_assert!(wait <= bound + slack);
            match asked {
                None => prop_assert!(wait <= times(delay, 1.0 + share) + slack),
                Some(asked) if asked <= bound => prop_assert!(wait + slack >= asked),
                Some(_) => prop_assert!(wait + slack >= times(bound, 0.5)),
            }
            prop_assert_eq!(next_attempt(&[step], 2, outcome, asked, jitter, percent), None);
        }
    }
}
