//! What an answer means for its delivery.

use std::time::Duration;

use crate::domain::delivery::AttemptOutcome;
use crate::domain::delivery::DeliveryClass;
use crate::domain::time::Timestamp;
use crate::state::Claim;
use crate::webhook::egress::Answer;
use crate::webhook::egress::Wish;
use crate::webhook::endpoint::Settings;
use crate::webhook::retry;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    Succeeded,
    RetryAt(Timestamp),
    GiveUp,
    /// The receiver wants nothing more, neither this message nor others.
    StopEndpoint,
}

/// Judges the answer that came in `now`. `jitter` is a random number from 0 to 1.
pub(super) fn judge(claim: &Claim, answer: &Answer, settings: &Settings, now: Timestamp, jitter: f64) -> Ruling {
    if answer.outcome.is_success() {
        return Ruling::Succeeded;
    }
    // Standard Webhooks: 410 Gone says that the endpoint is not there any more.
    if answer.outcome == AttemptOutcome::Status(410) || answer.wish == Some(Wish::Disable) {
        return Ruling::StopEndpoint;
    }
    if answer.wish == Some(Wish::AbortMessage) {
        return Ruling::GiveUp;
    }
    let (schedule, expiry): (&[Duration], Duration) = match claim.class {
        DeliveryClass::Normal | DeliveryClass::Test | DeliveryClass::Notice => {
            (&settings.schedule, settings.delivery_expiry)
        }
        DeliveryClass::Progress => (&retry::PROGRESS_SCHEDULE, retry::PROGRESS_EXPIRY),
    };
    let failures = (claim.attempts - claim.attempts_before).saturating_add(1);
    let asked = answer.retry_after.map(|wait| wait.from(now));
    retry::next_attempt(schedule, failures, answer.outcome, asked, jitter, settings.jitter_percent)
        .map(|wait| now.plus(wait))
        .filter(|at| *at <= claim.begun_at.plus(expiry))
        .map_or(Ruling::GiveUp, Ruling::RetryAt)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::webhook::retry::RetryAfter;
    use crate::webhook::testing;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_795_300_290_000).plus(Duration::from_secs(seconds))
    }

    fn settings() -> Settings {
        Settings { jitter_percent: 0, ..Settings::default() }
    }

    fn answer(status: u16) -> Answer {
        Answer::without_response(AttemptOutcome::Status(status), None, Duration::ZERO)
    }

    fn claim(class: DeliveryClass, attempts: u32) -> Claim {
        Claim { class, attempts, occurred_at: at(0), begun_at: at(0), ..testing::claim() }
    }

    /// webhooks R1.
    #[test]
    fn two_hundreds_succeed_and_nothing_else() {
        let claim = claim(DeliveryClass::Normal, 0);
        for status in [200, 202, 204, 299] {
            assert_eq!(judge(&claim, &answer(status), &settings(), at(0), 0.5), Ruling::Succeeded, "{status}");
        }
        for status in [101, 199, 300, 301, 304, 307, 400, 404, 500, 503] {
            assert_eq!(judge(&claim, &answer(status), &settings(), at(0), 0.5), Ruling::RetryAt(at(5)), "{status}");
        }
        for outcome in [AttemptOutcome::Refused, AttemptOutcome::Reset, AttemptOutcome::Tls, AttemptOutcome::Dns] {
            let answer = Answer::without_response(outcome, None, Duration::ZERO);
            assert_eq!(judge(&claim, &answer, &settings(), at(0), 0.5), Ruling::RetryAt(at(5)), "{outcome:?}");
        }
    }

    /// webhooks R7, R9. A wish in a success changes nothing about the message.
    #[test]
    fn a_receiver_may_end_a_message_or_all_of_them() {
        let claim = claim(DeliveryClass::Normal, 0);
        let wishing = |status, wish| Answer { wish: Some(wish), ..answer(status) };
        let judged = |answer: &Answer| judge(&claim, answer, &settings(), at(0), 0.5);
        assert_eq!(judged(&answer(410)), Ruling::StopEndpoint);
        assert_eq!(judged(&wishing(500, Wish::Disable)), Ruling::StopEndpoint);
        assert_eq!(judged(&wishing(500, Wish::AbortMessage)), Ruling::GiveUp);
        assert_eq!(judged(&wishing(200, Wish::AbortMessage)), Ruling::Succeeded);
    }

    /// webhooks R2, R3, R13: the tenth failure is the last, and so is one whose next attempt would be too late.
    #[test]
    fn attempts_end_by_count_and_by_the_clock() {
        let judged =
            |attempts, now| judge(&claim(DeliveryClass::Normal, attempts), &answer(500), &settings(), now, 0.5);
        assert_eq!(judged(8, at(60)), Ruling::RetryAt(at(60 + 24 * 3600)));
        assert_eq!(judged(9, at(60)), Ruling::GiveUp);
        assert_eq!(judged(8, at(72 * 3600)), Ruling::RetryAt(at(96 * 3600)));
        assert_eq!(judged(8, at(72 * 3600 + 1)), Ruling::GiveUp);
    }

    /// webhooks C5.
    #[test]
    fn progress_is_given_up_after_two_attempts_or_half_a_minute() {
        let judged = |attempts, status, now| {
            judge(&claim(DeliveryClass::Progress, attempts), &answer(status), &settings(), now, 0.5)
        };
        assert_eq!(judged(0, 500, at(1)), Ruling::RetryAt(at(11)));
        assert_eq!(judged(1, 500, at(11)), Ruling::GiveUp);
        assert_eq!(judged(0, 500, at(25)), Ruling::GiveUp, "the next would be after 35 seconds");
        assert_eq!(judged(0, 429, at(1)), Ruling::GiveUp, "a minute of rest outlasts it");
    }

    /// webhooks R6, from the receiver's own words.
    #[test]
    fn a_date_to_come_back_at_is_kept() {
        let answer = Answer { retry_after: Some(RetryAfter::At(at(100))), ..answer(503) };
        let claim = claim(DeliveryClass::Normal, 0);
        assert_eq!(judge(&claim, &answer, &settings(), at(40), 0.5), Ruling::RetryAt(at(100)));
    }
}
