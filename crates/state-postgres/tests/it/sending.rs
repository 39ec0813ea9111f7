//! Deliveries of several nodes: concurrent operations stop no lane.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering as AtomicOrdering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::delivery::{AttemptOutcome, DeliveryState, Disposition, ReplaySelection};
use domain::endpoint::{Endpoint, EndpointState, EndpointTerms, Ordering};
use domain::id::{DeliveryId, InstanceId, ReplayId, UploadId};
use domain::log::EventPosition;
use domain::principal::{TenantId, TenantScope};
use domain::query::DeliveryQuery;
use domain::replay::{ReplayJob, ReplayState};
use domain::time::Timestamp;
use domain::upload::{NewUpload, Upload};
use longshore_state_postgres::PostgresStore;
use state::conformance::{
    NOW, StateFixture, asked, at, change_of, claim, deliveries_to, endpoint, horizon, leases, new_upload, receive,
    settle, settlement, states_at, stored, subscribed, succeed, up_to,
};
use state::{Deliveries, Dispatch, Endpoints, Leases, Membership, Replays, Retention, Uploads};

use crate::place::{Database, until_waiting};

/// Makes every transaction that writes deliveries wait before it commits, up to `most_ms` milliseconds per
/// row.
async fn slow_down(place: &Database, most_ms: u32) {
    let slow = format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(random() * 0.001 * {most_ms}); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT OR UPDATE ON deliveries DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION slow()"
    );
    place.connect().await.batch_execute(&slow).await.unwrap();
}

/// A commit adds a delivery to a lane while another node settles the delivery before it. Neither transaction
/// sees the other's change, and the lane still advances.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_goes_on_when_a_commit_meets_a_settlement() {
    let place = Database::new();
    slow_down(&place, 4).await;
    let (committing, settling) = (place.open().await, place.open().await);
    committing.open_for(node(1), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    let mut upload = committing.insert(change_of(new_upload(1))).await.unwrap();
    for round in 1..=60 {
        let now = at(round);
        let claims = claim(&*settling, "a", now).await;
        assert_eq!(claims.len(), 1, "round {round}: {:?}", states_at(&*settling, "a").await);
        receive(&mut upload, 100, now);
        let pause = Duration::from_micros(rand::random_range(0..3_000));
        let commit = committing.commit(change_of(upload));
        let settled = async {
            tokio::time::sleep(pause).await;
            succeed(&*settling, &claims[0], now).await;
        };
        let (committed, ()) = tokio::join!(commit, settled);
        upload = committed.unwrap();
    }
}

fn node(number: u8) -> InstanceId {
    leases::node(number).instance
}

const NAMES: [&str; 3] = ["lane", "strict", "free"];

fn endpoints() -> Vec<Endpoint> {
    let orders = [Ordering::PerUpload, Ordering::Strict, Ordering::None];
    let ordered = NAMES.into_iter().zip(orders).map(|(name, ordering)| {
        let plain = subscribed(name, &["upload.*"]);
        Endpoint { terms: EndpointTerms { ordering, ..plain.terms.clone() }, ..plain }
    });
    ordered.collect()
}

/// A task that repeats one kind of work on one of the nodes.
struct Worker {
    store: Arc<PostgresStore>,
    node: InstanceId,
    end: Arc<AtomicBool>,
    /// The deliveries sent so far by any of the nodes.
    under_way: Arc<Mutex<HashSet<DeliveryId>>>,
    began: Instant,
}

impl Worker {
    fn now(&self) -> Timestamp {
        at(1_000).plus(self.began.elapsed())
    }

    fn is_over(&self) -> bool {
        self.end.load(AtomicOrdering::Relaxed)
    }

    async fn commit(self, number: u8) {
        let mut count = 0;
        while !self.is_over() {
            let id = UploadId::new(NOW, [number, count, 0, 0, 0, 0, 0, 0, count, number]);
            count += 1;
            let new = Upload::create(NewUpload { id, ..asked(1) }, NOW);
            let mut upload = self.store.insert(change_of(new)).await.unwrap();
            for _ in 0..8 {
                receive(&mut upload, 100, self.now());
                upload = self.store.commit(change_of(upload)).await.unwrap();
            }
        }
    }

    /// Leases do not expire here, so no node takes over a delivery of another.
    async fn send(self) {
        let slots = NAMES.map(|name| up_to(name, 3));
        while !self.is_over() {
            let claims = self.store.claim_due(self.node, &slots, self.now(), Duration::from_hours(1)).await.unwrap();
            if claims.is_empty() {
                tokio::time::sleep(Duration::from_millis(3)).await;
                continue;
            }
            let mut settlements = Vec::new();
            for claim in &claims {
                self.under_way.lock().unwrap().insert(claim.delivery);
                let later = Disposition::RetryAt(self.now().plus(Duration::from_millis(20)));
                let (outcome, disposition) = match rand::random_range(0..6) {
                    0 => (AttemptOutcome::Timeout, later),
                    1 => (AttemptOutcome::Status(410), Disposition::Dead),
                    _ => (AttemptOutcome::Status(204), Disposition::Succeeded),
                };
                settlements.push(settlement(claim, outcome, disposition));
            }
            settle(&*self.store, settlements, self.now()).await;
        }
    }

    /// Decisions of operators, replays, and periodic work.
    async fn decide(self) {
        while !self.is_over() {
            let name = NAMES[rand::random_range(0..NAMES.len())];
            match rand::random_range(0..7) {
                0 => self.put(name, EndpointState::Paused { since: self.now() }).await,
                1 | 2 => self.put(name, EndpointState::Enabled).await,
                3 => {
                    self.store.cancel_backlog(TenantScope::All, &endpoint(name), self.now()).await.unwrap();
                }
                4 => self.replay_all(name).await,
                5 => {
                    let found = deliveries_to(&*self.store, name).await;
                    let some = found.get(rand::random_range(0..1_000_usize) % found.len().max(1));
                    if let Some(delivery) = some {
                        self.store.replay(TenantScope::All, delivery.id, true, self.now()).await.unwrap();
                    }
                }
                _ => {
                    let before = self.now().minus(Duration::from_millis(300));
                    self.store.expire(before, 20, self.now()).await.unwrap();
                    self.store.prune(horizon(self.now().minus(Duration::from_millis(400))), 20).await.unwrap();
                }
            }
            self.store.advance_backlog(20, self.now()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn put(&self, name: &str, state: EndpointState) {
        let changed = Endpoint { state, ..stored(&*self.store, name).await };
        // Another node may have changed it first.
        let _ = self.store.put_endpoint(changed, self.now()).await;
    }

    async fn replay_all(&self, name: &str) {
        let job = replay_job(name, ReplaySelection::Everything, self.now());
        let mut job = self.store.begin_replay(job).await.unwrap();
        for _ in 0..3 {
            let Some(advanced) = self.store.advance_replay(job.id, 50, self.now()).await.unwrap() else {
                // Another node has removed the record of the job since it ended.
                assert_ne!(job.state, ReplayState::Running, "a running job is never removed");
                return;
            };
            job = advanced;
        }
        self.store.cancel_replay(TenantScope::All, job.id, self.now()).await.unwrap();
    }
}

/// Returns a new job.
pub(crate) fn replay_job(name: &str, what: ReplaySelection, now: Timestamp) -> ReplayJob {
    ReplayJob {
        id: ReplayId::new(now, rand::random()),
        tenant: TenantId::DEFAULT,
        endpoint: endpoint(name),
        what,
        from: NOW,
        before: now,
        state: ReplayState::Running,
        cursor: EventPosition::default(),
        queued: 0,
        created_at: now,
        finished_at: None,
    }
}

/// A replay reads events and waits for their lanes, while another node removes the events. A delivery without
/// its event could never be sent, and would block its lane.
#[tokio::test]
async fn a_replay_skips_events_that_are_removed_while_it_waits() {
    let place = Database::new();
    let (removing, replaying) = (place.open().await, place.open().await);
    removing.open_for(node(1), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    let upload = removing.insert(change_of(new_upload(1))).await.unwrap();
    let claims = claim(&*removing, "a", at(1)).await;
    succeed(&*removing, &claims[0], at(2)).await;
    let job = replaying.begin_replay(replay_job("a", ReplaySelection::Everything, at(50))).await.unwrap();

    let blocking = place.connect().await;
    let [.., a, b, c, d] = *upload.id().as_bytes();
    let lane = (0x4c6f_6e68_i64 << 32) | i64::from(u32::from_be_bytes([a, b, c, d]));
    blocking.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({lane})")).await.unwrap();
    let removed = tokio::spawn({
        let removing = Arc::clone(&removing);
        async move { removing.prune(horizon(at(100)), 20).await.unwrap() }
    });
    until_waiting(&blocking, "advisory", 1).await;
    let replayed = tokio::spawn(async move { replaying.advance_replay(job.id, 50, at(50)).await.unwrap() });
    until_waiting(&blocking, "advisory", 2).await;
    blocking.batch_execute("COMMIT").await.unwrap();
    // The locks are granted in the order in which they were requested.
    assert_eq!(removed.await.unwrap(), 2, "a delivery and its event");
    let replayed = replayed.await.unwrap().unwrap();
    assert_eq!((replayed.state, replayed.queued), (ReplayState::Done, 0));
    assert_eq!(deliveries_to(&*removing, "a").await, []);
}

/// Two nodes commit, send, replay, cancel, pause, expire and prune concurrently. No operation fails, and
/// afterwards all remaining deliveries can be sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stops_whatever_two_nodes_do_at_once() {
    let place = Database::new();
    slow_down(&place, 2).await;
    let seconds: u64 = std::env::var("SECONDS_OF_CHAOS").ok().map_or(5, |text| text.parse().unwrap());
    let stores = [place.open().await, place.open().await];
    let (end, under_way, began) = (Arc::<AtomicBool>::default(), Arc::default(), Instant::now());
    let mut working = Vec::new();
    for (number, store) in (1..).zip(&stores) {
        store.join(&leases::node(number), Membership::Others, None).await.unwrap();
        store.open_for(node(number), endpoints(), NOW).await.unwrap();
        let worker = || Worker {
            store: Arc::clone(store),
            node: node(number),
            end: Arc::clone(&end),
            under_way: Arc::clone(&under_way),
            began,
        };
        working.push(tokio::spawn(worker().commit(number)));
        working.push(tokio::spawn(worker().commit(number + 10)));
        working.push(tokio::spawn(worker().send()));
        working.push(tokio::spawn(worker().decide()));
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    end.store(true, AtomicOrdering::Relaxed);
    for work in working {
        work.await.unwrap();
    }
    let [store, _] = stores;
    assert!(under_way.lock().unwrap().len() > 20, "something was sent");
    for name in NAMES {
        let enabled = Endpoint { state: EndpointState::Enabled, ..stored(&*store, name).await };
        store.put_endpoint(enabled, at(5_000)).await.unwrap();
    }
    while store.advance_backlog(500, at(5_000)).await.unwrap() {}
    for _ in 0..10_000 {
        let slots = NAMES.map(|name| up_to(name, 100));
        let claims = store.claim_due(node(1), &slots, at(10_000), Duration::from_hours(1)).await.unwrap();
        if claims.is_empty() {
            break;
        }
        let sent = claims.iter().map(|it| settlement(it, AttemptOutcome::Status(204), Disposition::Succeeded));
        settle(&*store, sent.collect(), at(10_000)).await;
    }
    for state in [DeliveryState::Waiting, DeliveryState::Ready, DeliveryState::Leased, DeliveryState::Paused] {
        let query = DeliveryQuery { state: Some(state), limit: 10, ..DeliveryQuery::default() };
        let left = store.deliveries(TenantScope::All, &query).await.unwrap().found;
        assert_eq!(left, [], "{state:?}");
    }
}
