//! Decides what follows from a response for its delivery.

use std::time::Duration;

use crate::sending::egress::{AttemptResponse, ReceiverDirective};
use crate::sending::health::HealthSignal;
use crate::sending::retry;
use crate::settings::WebhookSettings;
use domain::delivery::{AttemptOutcome, DeliveryClass};
use domain::endpoint::{DisabledBecause, EndpointTerms};
use domain::time::Timestamp;
use state::Claim;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptDecision {
    Succeeded,
    RetryAt(Timestamp),
    Abandon,
    /// The receiver wants no further messages, neither this one nor others.
    DisableEndpoint(DisabledBecause),
    /// The attempt was a test: there is no second attempt, and a test never disables an endpoint.
    EndTest,
}

/// Decides on the response that arrived at `now`. No attempt is planned for later than `expiry` after the
/// delivery began. `jitter` is a random number from 0 to 1.
pub(crate) fn decide(
    claim: &Claim,
    terms: &EndpointTerms,
    answer: &AttemptResponse,
    settings: &WebhookSettings,
    expiry: Duration,
    now: Timestamp,
    jitter: f64,
) -> AttemptDecision {
    if answer.outcome.is_success() {
        return AttemptDecision::Succeeded;
    }
    if claim.class == DeliveryClass::Test {
        return AttemptDecision::EndTest;
    }
    if answer.directive == Some(ReceiverDirective::Disable) {
        return AttemptDecision::DisableEndpoint(DisabledBecause::Asked);
    }
    // Standard Webhooks: 410 Gone means that the endpoint no longer exists.
    if answer.outcome == AttemptOutcome::Status(410) {
        return AttemptDecision::DisableEndpoint(DisabledBecause::Gone);
    }
    if answer.directive == Some(ReceiverDirective::AbortMessage) {
        return AttemptDecision::Abandon;
    }
    let own = terms.retry_schedule.as_ref().unwrap_or(&settings.retry_schedule);
    let (schedule, expiry): (&[Duration], Duration) = match claim.class {
        DeliveryClass::Progress => (&retry::PROGRESS_SCHEDULE, retry::PROGRESS_EXPIRY),
        DeliveryClass::Normal | DeliveryClass::Notice | DeliveryClass::Test => (own, expiry),
    };
    // A replayed delivery starts the whole schedule again.
    let failures = claim.attempts.saturating_sub(claim.attempts_before).saturating_add(1);
    let asked = answer.retry_after.map(|wait| wait.from(now));
    retry::next_attempt(schedule, failures, answer.outcome, asked, jitter, settings.retry_jitter_percent)
        .map(|wait| now.plus(wait))
        .filter(|at| *at <= claim.begun_at.plus(expiry))
        .map_or(AttemptDecision::Abandon, AttemptDecision::RetryAt)
}

/// Returns the health signal that the response gives about the endpoint.
pub(crate) fn sign(claim: &Claim, answer: &AttemptResponse, decision: AttemptDecision) -> HealthSignal {
    match (decision, claim.class) {
        (AttemptDecision::Succeeded, _) => HealthSignal::Good,
        (AttemptDecision::EndTest | AttemptDecision::DisableEndpoint(_), _) => HealthSignal::Neither,
        // The receiver works, and has rejected one message.
        (AttemptDecision::Abandon, _) if answer.directive == Some(ReceiverDirective::AbortMessage) => {
            HealthSignal::Neither
        }
        (AttemptDecision::Abandon | AttemptDecision::RetryAt(_), DeliveryClass::Progress) => HealthSignal::BadProgress,
        (AttemptDecision::Abandon, DeliveryClass::Normal) => HealthSignal::Bad { exhausted: true },
        (AttemptDecision::Abandon | AttemptDecision::RetryAt(_), _) => HealthSignal::Bad { exhausted: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::sending::retry::RetryAfter;
    use crate::testing;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_795_300_290_000).plus(Duration::from_secs(seconds))
    }

    fn settings() -> WebhookSettings {
        WebhookSettings { retry_jitter_percent: 0, ..WebhookSettings::default() }
    }

    fn answer(status: u16) -> AttemptResponse {
        AttemptResponse::without_response(AttemptOutcome::Status(status), None, Duration::ZERO)
    }

    fn claim(class: DeliveryClass, attempts: u32) -> Claim {
        Claim { class, attempts, occurred_at: at(0), begun_at: at(0), ..testing::claim() }
    }

    fn decided(claim: &Claim, answer: &AttemptResponse, now: Timestamp) -> AttemptDecision {
        let settings = settings();
        decide(claim, &EndpointTerms::of("http://localhost"), answer, &settings, settings.delivery_expiry, now, 0.5)
    }

    /// webhooks R1.
    #[test]
    fn two_hundreds_succeed_and_nothing_else() {
        let claim = claim(DeliveryClass::Normal, 0);
        for status in [200, 202, 204, 299] {
            assert_eq!(decided(&claim, &answer(status), at(0)), AttemptDecision::Succeeded, "{status}");
        }
        for status in [101, 199, 300, 301, 304, 307, 400, 404, 500, 503] {
            assert_eq!(decided(&claim, &answer(status), at(0)), AttemptDecision::RetryAt(at(5)), "{status}");
        }
        for outcome in [AttemptOutcome::Refused, AttemptOutcome::Reset, AttemptOutcome::Tls, AttemptOutcome::Dns] {
            let answer = AttemptResponse::without_response(outcome, None, Duration::ZERO);
            assert_eq!(decided(&claim, &answer, at(0)), AttemptDecision::RetryAt(at(5)), "{outcome:?}");
        }
    }

    /// webhooks R7, R9. A directive in a successful response does not affect the message.
    #[test]
    fn a_receiver_may_end_a_message_or_all_of_them() {
        let claim = claim(DeliveryClass::Normal, 0);
        let wishing = |status, directive| AttemptResponse { directive: Some(directive), ..answer(status) };
        let judged = |answer: &AttemptResponse| decided(&claim, answer, at(0));
        assert_eq!(judged(&answer(410)), AttemptDecision::DisableEndpoint(DisabledBecause::Gone));
        assert_eq!(
            judged(&wishing(500, ReceiverDirective::Disable)),
            AttemptDecision::DisableEndpoint(DisabledBecause::Asked)
        );
        assert_eq!(judged(&wishing(500, ReceiverDirective::AbortMessage)), AttemptDecision::Abandon);
        assert_eq!(judged(&wishing(200, ReceiverDirective::AbortMessage)), AttemptDecision::Succeeded);
    }

    /// webhooks R2, R3, R13: the tenth failure is the last one, and so is a failure whose next attempt would
    /// be too late.
    #[test]
    fn attempts_end_by_count_and_by_the_clock() {
        let judged = |attempts, now| decided(&claim(DeliveryClass::Normal, attempts), &answer(500), now);
        assert_eq!(judged(8, at(60)), AttemptDecision::RetryAt(at(60 + 24 * 3600)));
        assert_eq!(judged(9, at(60)), AttemptDecision::Abandon);
        assert_eq!(judged(8, at(72 * 3600)), AttemptDecision::RetryAt(at(96 * 3600)));
        assert_eq!(judged(8, at(72 * 3600 + 1)), AttemptDecision::Abandon);
    }

    /// webhooks C5.
    #[test]
    fn progress_is_given_up_after_two_attempts_or_half_a_minute() {
        let judged = |attempts, status, now| decided(&claim(DeliveryClass::Progress, attempts), &answer(status), now);
        assert_eq!(judged(0, 500, at(1)), AttemptDecision::RetryAt(at(11)));
        assert_eq!(judged(1, 500, at(11)), AttemptDecision::Abandon);
        assert_eq!(judged(0, 500, at(25)), AttemptDecision::Abandon, "the next would be after 35 seconds");
        assert_eq!(judged(0, 429, at(1)), AttemptDecision::Abandon, "a minute of rest outlasts it");
    }

    /// webhooks R6: a date given by the receiver is kept.
    #[test]
    fn a_date_to_come_back_at_is_kept() {
        let answer = AttemptResponse { retry_after: Some(RetryAfter::At(at(100))), ..answer(503) };
        let claim = claim(DeliveryClass::Normal, 0);
        assert_eq!(decided(&claim, &answer, at(40)), AttemptDecision::RetryAt(at(100)));
    }

    /// webhooks R3, L3: an endpoint's own schedule applies, and starts again for a replayed delivery.
    #[test]
    fn a_schedule_is_the_endpoints_own_and_begins_anew_with_a_replay() {
        let minute = Duration::from_mins(1);
        let terms =
            EndpointTerms { retry_schedule: Some(vec![minute, minute * 2]), ..EndpointTerms::of("http://localhost") };
        let judged = |attempts, attempts_before| {
            let claim = Claim { attempts_before, begun_at: at(50), ..claim(DeliveryClass::Normal, attempts) };
            decide(&claim, &terms, &answer(500), &settings(), settings().delivery_expiry, at(60), 0.5)
        };
        assert_eq!(
            [judged(0, 0), judged(1, 0)],
            [AttemptDecision::RetryAt(at(120)), AttemptDecision::RetryAt(at(180))]
        );
        assert_eq!(judged(2, 0), AttemptDecision::Abandon);
        assert_eq!(
            [judged(7, 7), judged(8, 7)],
            [AttemptDecision::RetryAt(at(120)), AttemptDecision::RetryAt(at(180))]
        );
        assert_eq!(judged(9, 7), AttemptDecision::Abandon);
    }

    #[test]
    fn a_test_has_one_attempt_and_stops_nobody() {
        let test = claim(DeliveryClass::Test, 0);
        for status in [410, 429, 500] {
            assert_eq!(decided(&test, &answer(status), at(0)), AttemptDecision::EndTest);
            assert_eq!(sign(&test, &answer(status), AttemptDecision::EndTest), HealthSignal::Neither);
        }
        assert_eq!(decided(&test, &answer(200), at(0)), AttemptDecision::Succeeded);
        assert_eq!(sign(&test, &answer(200), AttemptDecision::Succeeded), HealthSignal::Good);
    }

    /// webhooks C5, R9.
    #[test]
    fn not_every_failure_says_that_the_endpoint_is_unwell() {
        let (normal, progress) = (claim(DeliveryClass::Normal, 0), claim(DeliveryClass::Progress, 0));
        let notice = claim(DeliveryClass::Notice, 0);
        let refusing = AttemptResponse { directive: Some(ReceiverDirective::AbortMessage), ..answer(422) };
        let again = AttemptDecision::RetryAt(at(5));
        assert_eq!(sign(&normal, &answer(500), again), HealthSignal::Bad { exhausted: false });
        assert_eq!(sign(&normal, &answer(500), AttemptDecision::Abandon), HealthSignal::Bad { exhausted: true });
        assert_eq!(sign(&notice, &answer(500), AttemptDecision::Abandon), HealthSignal::Bad { exhausted: false });
        assert_eq!(sign(&progress, &answer(500), AttemptDecision::Abandon), HealthSignal::BadProgress);
        assert_eq!(sign(&normal, &refusing, AttemptDecision::Abandon), HealthSignal::Neither);
    }
}
