//! Tables of the rules, and properties of every lane.

use proptest::prelude::*;

use super::*;

use DeliveryClass::{Normal, Notice, Progress, Test};
use DeliveryState::{Cancelled, Dead, Leased, Paused, Ready, Succeeded, Superseded, Waiting};
use LaneLoad::{Empty, FirstAttempts, Retries};

const NOW: Timestamp = Timestamp::from_unix_ms(1_000);

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

#[test]
fn who_joins_a_lane_waits_for_what_its_order_says() {
    for (ordering, unfinished, state) in [
        (Ordering::PerUpload, Empty, Ready),
        (Ordering::PerUpload, Retries, Ready),
        (Ordering::PerUpload, FirstAttempts, Waiting),
        (Ordering::Strict, Empty, Ready),
        (Ordering::Strict, Retries, Waiting),
        (Ordering::Strict, FirstAttempts, Waiting),
        (Ordering::None, Empty, Ready),
        (Ordering::None, Retries, Ready),
        (Ordering::None, FirstAttempts, Ready),
    ] {
        assert_eq!(join(ordering, unfinished), state, "{ordering:?} behind {unfinished:?}");
    }
}

#[test]
fn a_lane_goes_on_when_nothing_under_way_holds_it() {
    for (ordering, under_way, goes) in [
        (Ordering::PerUpload, Empty, true),
        (Ordering::PerUpload, Retries, true),
        (Ordering::PerUpload, FirstAttempts, false),
        (Ordering::Strict, Empty, true),
        (Ordering::Strict, Retries, false),
        (Ordering::Strict, FirstAttempts, false),
        (Ordering::None, Retries, true),
        (Ordering::None, FirstAttempts, false),
    ] {
        assert_eq!(may_release_next(ordering, under_way), goes, "{ordering:?} with {under_way:?}");
    }
    assert_eq!(due_when_released(at(5), NOW), at(5), "it keeps its age");
    assert_eq!(due_when_released(at(5_000), NOW), NOW, "and waits for no plan of before");
}

#[test]
fn what_is_sent_again_takes_its_turn() {
    for (ordering, is_in_lane, attempts, state) in [
        (Ordering::PerUpload, true, 0, Waiting),
        (Ordering::PerUpload, true, 1, Ready),
        (Ordering::Strict, true, 1, Waiting),
        (Ordering::None, true, 0, Ready),
        (Ordering::Strict, false, 0, Ready),
    ] {
        assert_eq!(rejoin(ordering, is_in_lane, attempts), state, "{ordering:?} {is_in_lane} {attempts}");
    }
}

#[test]
fn a_verdict_moves_a_delivery_by_its_class() {
    let retry = Disposition::RetryAt(at(9));
    for (class, is_overtaken, disposition, state) in [
        (Normal, true, Disposition::Succeeded, Succeeded),
        (Normal, true, retry, Ready),
        (Normal, false, Disposition::Dead, Dead),
        (Notice, false, Disposition::Dead, Dead),
        (Test, false, Disposition::Cancelled, Cancelled),
        (Progress, false, Disposition::Succeeded, Succeeded),
        (Progress, false, retry, Ready),
        (Progress, true, retry, Superseded),
        (Progress, false, Disposition::Dead, Superseded),
    ] {
        let settled = settle(ClaimedDelivery { class, attempts: 2, is_overtaken }, disposition, true);
        assert_eq!(settled.state, state, "{class:?} {is_overtaken} {disposition:?}");
        assert_eq!(settled.next_at.is_some(), state == Ready);
        assert_eq!(settled.attempts, 3);
        assert_eq!(settled.is_exhausted, class == Normal && state == Dead);
    }
    let held = ClaimedDelivery { class: Normal, attempts: 2, is_overtaken: false };
    assert_eq!(settle(held, retry, false).attempts, 2, "an aborted attempt does not count");
}

#[test]
fn what_waited_too_long_ends_by_its_class() {
    for (class, state, is_exhausted) in
        [(Normal, Dead, true), (Notice, Dead, false), (Test, Dead, false), (Progress, Superseded, false)]
    {
        let settled = expire(class, 4);
        assert_eq!((settled.state, settled.is_exhausted, settled.attempts), (state, is_exhausted, 4), "{class:?}");
    }
}

#[test]
fn later_news_drops_only_progress_that_nobody_sends() {
    for state in DeliveryState::ALL {
        let is_pending = matches!(state, Waiting | Ready | Paused);
        assert_eq!(is_superseded(Progress, state), is_pending, "{state:?}");
        assert!(!is_superseded(Normal, state), "{state:?}");
        assert_eq!(super::is_pending(state), is_pending, "{state:?}");
        assert_eq!(state.is_finished(), !is_pending && state != Leased, "{state:?}");
    }
    assert_eq!([Normal, Progress, Notice, Test].map(reclaim), [Ready, Ready, Ready, Cancelled]);
}

#[test]
fn what_is_due_goes_by_its_age() {
    for (state, next_at, lease_until, due) in [
        (Ready, at(1_000), None, true),
        (Ready, at(1_001), None, false),
        (Leased, at(1), Some(at(1_000)), true),
        (Leased, at(1), Some(at(1_001)), false),
        (Waiting, at(1), None, false),
        (Dead, at(1), None, false),
    ] {
        assert_eq!(is_due(state, next_at, lease_until, NOW), due, "{state:?} {next_at} {lease_until:?}");
    }
    let turn = |next_at, sequence| ClaimOrder { next_at: at(next_at), sequence };
    assert!(turn(1, 9) < turn(2, 1) && turn(2, 1) < turn(2, 2));
}

#[test]
fn a_standing_says_what_is_claimed_given_up_and_dropped() {
    let sent_to =
        EndpointAvailability { is_present: true, is_enabled: true, is_cancelling: false, resumed_at: at(500) };
    let stopped = EndpointAvailability { is_enabled: false, ..sent_to };
    let cancelling = EndpointAvailability { is_cancelling: true, ..sent_to };
    let forgotten = EndpointAvailability { is_present: false, ..sent_to };
    for (availability, takes, expires_deliveries, rests) in [
        (sent_to, true, true, false),
        (stopped, false, false, true),
        (cancelling, false, false, false),
        (forgotten, false, false, true),
    ] {
        assert_eq!(availability.takes_claims(), takes, "{availability:?}");
        assert_eq!(
            (availability.expires_deliveries(at(501)), availability.expires_deliveries(at(500))),
            (expires_deliveries, false),
            "{availability:?}"
        );
        assert_eq!(
            (availability.is_stopped_since(at(501)), availability.is_stopped_since(at(500))),
            (rests, false),
            "{availability:?}"
        );
    }
    assert_eq!((sent_to.begun_at(at(1)), sent_to.begun_at(at(900))), (at(500), at(900)));
}

#[test]
fn asking_again_is_answered_by_where_the_delivery_stands() {
    let sent_to = EndpointAvailability { is_present: true, is_enabled: true, is_cancelling: false, resumed_at: at(0) };
    let stopped = EndpointAvailability { is_enabled: false, ..sent_to };
    let gone = EndpointAvailability { is_present: false, ..sent_to };
    for (availability, state, force, is_being_cancelled, answer) in [
        (sent_to, Leased, true, false, Err(ReplayOutcome::UnderWay)),
        (sent_to, Succeeded, false, false, Err(ReplayOutcome::HasSucceeded)),
        (sent_to, Succeeded, true, false, Ok(())),
        (sent_to, Waiting, true, false, Err(ReplayOutcome::Queued)),
        (sent_to, Waiting, true, true, Ok(())),
        (sent_to, Ready, false, false, Ok(())),
        (stopped, Ready, false, false, Err(ReplayOutcome::Queued)),
        (stopped, Ready, false, true, Ok(())),
        (sent_to, Dead, false, false, Ok(())),
        (sent_to, Superseded, false, false, Ok(())),
        (gone, Dead, true, false, Err(ReplayOutcome::NoEndpoint)),
    ] {
        assert_eq!(
            availability.check_replay(state, force, is_being_cancelled),
            answer,
            "{availability:?} {state:?} {force}"
        );
    }
}

#[test]
fn a_replay_touches_nothing_unfinished() {
    use ReplayAction::{Join, Nothing, Rejoin};
    for (found, answers) in [
        (Some(Dead), [Nothing, Rejoin, Rejoin, Rejoin]),
        (Some(Cancelled), [Nothing, Nothing, Rejoin, Rejoin]),
        (Some(Succeeded), [Nothing, Nothing, Nothing, Rejoin]),
        (Some(Superseded), [Nothing; 4]),
        (Some(Waiting), [Nothing; 4]),
        (Some(Ready), [Nothing; 4]),
        (Some(Leased), [Nothing; 4]),
        (None, [Nothing, Nothing, Join, Join]),
    ] {
        assert_eq!(ReplaySelection::ALL.map(|what| replay(found, what)), answers, "{found:?}");
    }
}

#[test]
fn a_wait_of_a_clock_that_was_ahead_is_told_from_others() {
    assert!(was_planned_by_fast_clock(0, at(1), None, NOW), "a first attempt waits for nothing");
    assert!(was_planned_by_fast_clock(1, at(2_000), Some(at(1)), NOW));
    assert!(was_planned_by_fast_clock(1, at(1), Some(at(2_000)), NOW));
    assert!(!was_planned_by_fast_clock(1, at(1), Some(at(900)), NOW));
}

/// A delivery of a lane under test.
#[derive(Debug, Clone)]
struct Entry {
    sequence: u64,
    class: DeliveryClass,
    state: DeliveryState,
    attempts: u32,
    /// True if it was sent again, which takes it out of the order of first attempts.
    is_again: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Join(bool),
    Claim,
    Settle(usize, u8),
    Expire(usize),
    Replay(usize),
    TakeBack(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<bool>().prop_map(Step::Join),
        3 => Just(Step::Claim),
        4 => (any::<usize>(), 0..5_u8).prop_map(|(which, disposition)| Step::Settle(which, disposition)),
        1 => any::<usize>().prop_map(Step::Expire),
        1 => any::<usize>().prop_map(Step::Replay),
        1 => any::<usize>().prop_map(Step::TakeBack),
    ]
}

/// A store of one lane that follows the rules.
#[derive(Debug)]
struct Lane {
    ordering: Ordering,
    entries: Vec<Entry>,
    /// The sequences of first attempts, in the order of their claims.
    first_attempts: Vec<u64>,
}

impl Lane {
    fn load(&self, is_meant: impl Fn(&Entry) -> bool) -> LaneLoad {
        let meant = self.entries.iter().filter(|entry| is_meant(entry));
        meant.map(|entry| LaneLoad::of(entry.attempts)).max().unwrap_or_default()
    }

    fn under_way(&self) -> LaneLoad {
        self.load(|entry| matches!(entry.state, Ready | Leased))
    }

    fn release_next(&mut self) {
        let under_way = self.under_way();
        let waiting = self.entries.iter_mut().filter(|entry| entry.state == Waiting);
        if let Some(first) = waiting.min_by_key(|entry| entry.sequence)
            && may_release_next(self.ordering, under_way)
        {
            first.state = Ready;
        }
    }

    /// Picks a matching delivery by `which`, modulo their number.
    fn pick(&mut self, which: usize, is_meant: impl Fn(&Entry) -> bool) -> Option<&mut Entry> {
        let count = self.entries.iter().filter(|entry| is_meant(entry)).count();
        self.entries.iter_mut().filter(|entry| is_meant(entry)).nth(which.checked_rem(count)?)
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Join(is_progress) => {
                for entry in &mut self.entries {
                    if is_superseded(entry.class, entry.state) {
                        entry.state = Superseded;
                    }
                }
                self.release_next();
                let state = join(self.ordering, self.load(|entry| !entry.state.is_finished()));
                let class = if is_progress { Progress } else { Normal };
                let sequence = self.entries.len() as u64 + 1;
                self.entries.push(Entry { sequence, class, state, attempts: 0, is_again: false });
            }
            Step::Claim => {
                let due = self.entries.iter_mut().filter(|entry| entry.state == Ready);
                let Some(next) = due.min_by_key(|entry| entry.sequence) else { return };
                next.state = Leased;
                if next.attempts == 0 && !next.is_again {
                    let sequence = next.sequence;
                    // A reclaimed delivery repeats its first attempt.
                    if self.first_attempts.last() != Some(&sequence) {
                        self.first_attempts.push(sequence);
                    }
                }
            }
            Step::Settle(which, disposition) => {
                let newest = self.entries.len() as u64;
                let Some(entry) = self.pick(which, |entry| entry.state == Leased) else { return };
                let held = ClaimedDelivery {
                    class: entry.class,
                    attempts: entry.attempts,
                    is_overtaken: entry.sequence < newest,
                };
                let disposition =
                    [Disposition::Succeeded, Disposition::RetryAt(NOW), Disposition::Dead, Disposition::RetryAt(NOW)]
                        .get(usize::from(disposition))
                        .copied();
                let settled = settle(held, disposition.unwrap_or(Disposition::RetryAt(NOW)), disposition.is_some());
                (entry.state, entry.attempts) = (settled.state, settled.attempts);
                self.release_next();
            }
            Step::Expire(which) => {
                let Some(entry) = self.pick(which, |entry| is_pending(entry.state)) else { return };
                entry.state = expire(entry.class, entry.attempts).state;
                self.release_next();
            }
            Step::Replay(which) => {
                let ordering = self.ordering;
                let Some(entry) = self.pick(which, |entry| entry.state.is_finished()) else { return };
                entry.state = rejoin(ordering, true, entry.attempts);
                entry.is_again = true;
                self.release_next();
            }
            Step::TakeBack(which) => {
                let Some(entry) = self.pick(which, |entry| entry.state == Leased) else { return };
                entry.state = reclaim(entry.class);
            }
        }
    }

    /// Returns the number of ready and leased deliveries that block others in this ordering.
    fn blocking(&self) -> usize {
        let under_way = self.entries.iter().filter(|entry| matches!(entry.state, Ready | Leased));
        under_way.filter(|entry| self.ordering == Ordering::Strict || entry.attempts == 0).count()
    }
}

proptest! {
    /// Deliveries stay in order, one at a time, and none waits for one that never comes (webhooks G6, G7). At
    /// most one progress delivery is pending (C3).
    #[test]
    fn a_lane_keeps_its_order_and_never_stands_still(
        ordering in prop_oneof![Just(Ordering::PerUpload), Just(Ordering::Strict)],
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut lane = Lane { ordering, entries: Vec::new(), first_attempts: Vec::new() };
        for step in &steps {
            lane.take(step);
            prop_assert!(lane.blocking() <= 1, "{step:?} led to {lane:?}");
            let waits = lane.entries.iter().any(|entry| entry.state == Waiting);
            prop_assert!(!waits || !may_release_next(ordering, lane.under_way()), "{step:?} led to {lane:?}");
            let progress = lane.entries.iter().filter(|entry| is_superseded(entry.class, entry.state)).count();
            prop_assert!(!matches!(step, Step::Join(_)) || progress <= 1, "{step:?} led to {lane:?}");
        }
        prop_assert!(lane.first_attempts.is_sorted(), "{:?}", lane.first_attempts);
    }
}
