//! Random lives of deliveries: every store must apply the same rules.
//!
//! The memory state uses [`domain::lane`] for every decision, so it is the oracle: for any sequence of
//! operations on both, a store under test claims the same deliveries in the same order, and shows each of
//! them in the same state as the memory state.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::memory::{MemoryDatabase, MemoryState};
use domain::endpoint::Ordering;

const LIVES: u64 = 10;
const STEPS: usize = 60;
const NAMES: [&str; 3] = ["lane", "strict", "free"];

/// The visible facts of a delivery.
type Seen = (u8, u64, DeliveryState, Option<Timestamp>, Option<Timestamp>, Vec<u32>);

/// The visible facts of a claim: its upload and sequence, attempts, the time it began, and whether it was
/// taken over.
type Claimed = (u8, u64, u32, u32, Timestamp, bool);

/// One of the two stores, with the uploads and claims obtained from it.
struct Candidate<'a, S> {
    store: &'a S,
    uploads: Vec<Upload>,
    held: Vec<Claim>,
}

impl<S: UploadStore + Outbox> Candidate<'_, S> {
    async fn seen(&self) -> Vec<Vec<Seen>> {
        let mut seen = Vec::new();
        for name in NAMES {
            let deliveries = deliveries_to(self.store, name).await;
            seen.push(deliveries.iter().map(Self::seen_of).collect());
        }
        seen
    }

    fn seen_of(delivery: &DeliveryRecord) -> Seen {
        let upload = delivery.upload.map_or(u8::MAX, |upload| upload.as_bytes()[15]);
        let attempts = delivery.attempts.iter().map(|attempt| attempt.number).collect();
        (upload, delivery.sequence, delivery.state, delivery.next_attempt_at, delivery.finished_at, attempts)
    }

    /// Changes an upload, or creates a new one.
    async fn happen(&mut self, number: usize, what: u32, now: Timestamp) {
        if number >= self.uploads.len() {
            let new = asked(u8::try_from(self.uploads.len()).unwrap());
            self.uploads.push(self.store.insert(change_of(Upload::create(new, now))).await.unwrap());
            return;
        }
        let mut upload = self.uploads[number].clone();
        match what {
            0 => receive(&mut upload, 100, now),
            1 => upload.stall(now),
            _ => {
                for _ in 0..3 {
                    receive(&mut upload, 200, now);
                }
            }
        }
        self.uploads[number] = self.store.commit(change_of(upload)).await.unwrap();
    }

    async fn claim(&mut self, name: &str, slots: u32, now: Timestamp, lease: Duration) -> Vec<Claimed> {
        let claims = self.store.claim_due(own(), &[up_to(name, slots)], now, lease).await.unwrap();
        let seen = claims.iter().map(|claim| {
            let upload = claim.upload.unwrap().as_bytes()[15];
            (upload, sequence_of(claim), claim.attempts, claim.attempts_before, claim.begun_at, claim.is_taken_over)
        });
        let seen = seen.collect();
        self.held.extend(claims);
        seen
    }

    async fn settle(&mut self, which: usize, disposition: Disposition, outcome: AttemptOutcome, now: Timestamp) {
        if self.held.is_empty() {
            return;
        }
        let claim = self.held.remove(which % self.held.len());
        let mut settled = settlement(&claim, outcome, disposition);
        settled.attempt.started_at = now;
        settle(self.store, vec![settled], now).await;
    }

    async fn replay(&self, name: &str, which: usize, force: bool, now: Timestamp) -> Option<ReplayOutcome> {
        let deliveries = deliveries_to(self.store, name).await;
        let delivery = deliveries.get(which.checked_rem(deliveries.len())?)?;
        Some(self.store.replay(TenantScope::All, delivery.id, force, now).await.unwrap())
    }
}

fn endpoints() -> Vec<Endpoint> {
    let orders = [Ordering::PerUpload, Ordering::Strict, Ordering::None];
    let ordered = NAMES.into_iter().zip(orders).map(|(name, ordering)| {
        let plain = subscribed(name, &["upload.*"]);
        Endpoint { terms: EndpointTerms { ordering, ..plain.terms.clone() }, ..plain }
    });
    ordered.collect()
}

/// Performs one operation on both stores and compares the results.
macro_rules! both {
    ($sides:ident, $side:ident => $done:expr) => {{
        let $side = &mut $sides.0;
        let by_the_rules = $done;
        let $side = &mut $sides.1;
        assert_eq!($done, by_the_rules);
    }};
}

pub async fn what_becomes_of_deliveries_goes_by_the_rules<P: StateFixture>(_: P) {
    for seed in 0..LIVES {
        let place = P::new();
        let (store, rules) = (place.open().await, MemoryDatabase::new(bodies()).open());
        live::<P>(&*store, &rules, seed).await;
    }
}

async fn live<P: StateFixture>(store: &P::Store, rules: &MemoryState, seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    store.open_for(own(), endpoints(), NOW).await.unwrap();
    rules.open_for(own(), endpoints(), NOW).await.unwrap();
    let mut sides =
        (Candidate { store: rules, uploads: vec![], held: vec![] }, Candidate { store, uploads: vec![], held: vec![] });
    let mut now = NOW;
    for step in 0..STEPS {
        // No two operations happen at the same instant, so the order of claims is always determined.
        now = now.plus(Duration::from_millis(chance.random_range(1..20_000)));
        let name = NAMES[chance.random_range(0..NAMES.len())];
        let (which, number) = (chance.random_range(0..1_000), chance.random_range(0..4));
        let lease = Duration::from_secs(30);
        match chance.random_range(0..10_u32) {
            0..=2 => {
                let what = chance.random_range(0..3);
                both!(sides, side => side.happen(number, what, now).await);
            }
            3..=5 => {
                let slots = chance.random_range(1..4);
                both!(sides, side => side.claim(name, slots, now, lease).await);
            }
            6..=7 => {
                let later = now.plus(Duration::from_millis(chance.random_range(1..40_000)));
                let (disposition, outcome) = match chance.random_range(0..4) {
                    0 => (Disposition::Succeeded, AttemptOutcome::Status(204)),
                    1 => (Disposition::RetryAt(later), AttemptOutcome::Timeout),
                    2 => (Disposition::RetryAt(later), AttemptOutcome::Aborted),
                    _ => (Disposition::Dead, AttemptOutcome::Status(500)),
                };
                both!(sides, side => side.settle(which, disposition, outcome, now).await);
            }
            8 => {
                let force = chance.random_bool(0.5);
                both!(sides, side => side.replay(name, which, force, now).await);
            }
            _ => {
                let before = now.minus(Duration::from_millis(chance.random_range(1..300_000)));
                both!(sides, side => side.store.expire(before, 100, now).await.unwrap());
            }
        }
        assert_eq!(sides.1.seen().await, sides.0.seen().await, "after step {step} of life {seed}");
        let names = NAMES.map(endpoint);
        both!(sides, side => side.store.next_due(&names).await.unwrap());
        both!(sides, side => side.store.superseded());
    }
}
