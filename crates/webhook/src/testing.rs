//! What the tests of the sender stand on: a receiver on a real socket that answers by script, and an outbox in memory.

use domain::delivery::{Backlog, Replayed, Verdict};
use domain::id::ReplayId;
use domain::query::{DeliveryPage, DeliveryQuery};
use domain::replay::{ReplayJob, ReplayState};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::{Endpoint, Vault};
use domain::delivery::{Attempt, AttemptOutcome, DeliveryClass, DeliveryRecord, DeliveryState, Trigger};
use domain::endpoint::{Endpoint as StoredEndpoint, EndpointId, EndpointTerms};
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, InstanceId, UploadId};
use domain::notice::Notice;
use domain::principal::TenantScope;
use domain::time::Timestamp;
use keyring::ServerKeys;
use outbound::address::EgressRules;
use outbound::keys::{Key, Keys};
pub(super) use outbound::testing::{Receiver, SECRET, Script, wall_clock};
use state::clock::{Clock, Reading};
use state::{BacklogLimits, Claim, Deliveries, Dispatch, Endpoints, Horizon, Notices, Replays, Retention, Settled};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn endpoint(name: &str, url: &str) -> Endpoint {
    endpoint_with(name, url, |_| {})
}

/// An endpoint of the configuration.
pub(super) fn endpoint_with(name: &str, url: &str, change: impl FnOnce(&mut EndpointTerms)) -> Endpoint {
    let (id, now) = (EndpointId::new(name).unwrap(), wall_clock());
    let keys = Keys::lasting([Key::parse(SECRET).unwrap()], now);
    let mut terms = EndpointTerms::of(url);
    change(&mut terms);
    Endpoint::configured(id, terms, keys, &[], &EgressRules::default(), now).unwrap()
}

/// The node whose sender is tested.
pub(super) fn node() -> InstanceId {
    InstanceId::new(Timestamp::from_unix_ms(0), [7; 10])
}

/// Always the same server key.
pub(super) fn vault() -> Vault {
    Vault::new(&ServerKeys::generate([7; 32], [7; 4]))
}

pub(super) fn claim() -> Claim {
    let now = wall_clock();
    Claim {
        delivery: DeliveryId::new(now, rand::random()),
        lease: [0; 16],
        endpoint: EndpointId::new("app").unwrap(),
        event: EventId::new(now, rand::random()),
        kind: EventKind::Completed,
        class: DeliveryClass::Normal,
        trigger: Trigger::Auto,
        upload: Some(UploadId::new(now, rand::random())),
        occurred_at: now,
        begun_at: now,
        attempts: 0,
        attempts_before: 0,
        is_taken_over: false,
        body: Bytes::from_static(br#"{"type":"upload.completed"}"#),
    }
}

/// A clock that runs, and that a test can put forward and set.
#[derive(Clone)]
pub(super) struct TestClock {
    begun: std::time::Instant,
    passed_ms: Arc<AtomicU64>,
    set_by_ms: Arc<AtomicI64>,
}

impl Default for TestClock {
    fn default() -> Self {
        Self { begun: std::time::Instant::now(), passed_ms: Arc::default(), set_by_ms: Arc::default() }
    }
}

impl TestClock {
    /// Lets time pass.
    pub(super) fn put_forward(&self, span: Duration) {
        self.passed_ms.fetch_add(u64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(super) fn step_ahead(&self, span: Duration) {
        self.set_by_ms.fetch_add(i64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(super) fn step_back(&self, span: Duration) {
        self.set_by_ms.fetch_sub(i64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(super) fn now(&self) -> Timestamp {
        self.read().time_of_day
    }

    fn read(&self) -> Reading {
        let passed = Duration::from_millis(self.passed_ms.load(Ordering::SeqCst));
        let set_by_ms = self.set_by_ms.load(Ordering::SeqCst);
        let time_of_day = Timestamp::from_unix_ms(wall_clock().plus(passed).unix_ms() + set_by_ms);
        Reading { time_of_day, running: self.begun.elapsed() + passed }
    }

    pub(super) fn clock(&self) -> Clock {
        let read = self.clone();
        Clock::new(move || read.read())
    }
}

/// Deliveries in memory, under the contract of [`Outbox`] as far as a sender can tell.
#[derive(Debug, Default)]
pub(super) struct FakeOutbox {
    rows: Mutex<Vec<Row>>,
    bell: Arc<Notify>,
    changed: watch::Sender<u64>,
    /// While set, claiming fails.
    pub(super) claims_fail: AtomicBool,
    /// While set, claiming never comes back.
    pub(super) claims_hang: AtomicBool,
    /// While set, the bell has rung again whenever somebody listens: something is always being committed.
    pub(super) is_never_quiet: AtomicBool,
    /// While set, whoever removes an endpoint hears of it late.
    pub(super) holds_removals: AtomicBool,
    /// While set, settling and pausing fail.
    pub(super) writes_fail: AtomicBool,
    failures: AtomicU64,
    /// As they are stored. Those that nobody stored are enabled.
    endpoints: Mutex<Vec<StoredEndpoint>>,
    pub(super) notices: Mutex<Vec<Notice>>,
    jobs: Mutex<Vec<ReplayJob>>,
    jobs_done: Mutex<Vec<ReplayId>>,
    old_rows: AtomicU64,
    prunes: Mutex<Vec<u64>>,
    pub(super) superseded: AtomicU64,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) claim: Claim,
    pub(super) state: DeliveryState,
    pub(super) due: Timestamp,
    pub(super) attempts: Vec<(Attempt, Verdict)>,
}

impl Row {
    fn is_due(&self, now: Timestamp) -> bool {
        matches!(self.state, DeliveryState::Ready | DeliveryState::Leased) && self.due <= now
    }

    fn same_lane(&self, claim: &Claim) -> bool {
        self.claim.endpoint == claim.endpoint && self.claim.upload == claim.upload
    }

    pub(super) fn outcomes(&self) -> Vec<AttemptOutcome> {
        self.attempts.iter().map(|(attempt, _)| attempt.outcome).collect()
    }

    pub(super) fn last(&self) -> &(Attempt, Verdict) {
        self.attempts.last().expect("an attempt was made")
    }
}

impl FakeOutbox {
    /// Adds a delivery, waiting if one of the same upload has not been attempted yet.
    pub(super) fn add(&self, claim: Claim) -> DeliveryId {
        let id = claim.delivery;
        let mut rows = self.rows.lock().unwrap();
        let blocked = rows.iter().any(|row| row.same_lane(&claim) && row.attempts.is_empty());
        let state = if blocked { DeliveryState::Waiting } else { DeliveryState::Ready };
        rows.push(Row { due: claim.occurred_at, claim, state, attempts: Vec::new() });
        drop(rows);
        self.bell.notify_one();
        id
    }

    /// Replays that have come to their end, in that order.
    pub(super) fn jobs_done(&self) -> Vec<ReplayId> {
        self.jobs_done.lock().unwrap().clone()
    }

    /// From now on so many rows are old.
    pub(super) fn set_old_rows(&self, count: u64) {
        self.old_rows.store(count, Ordering::SeqCst);
    }

    /// How many rows each call has removed.
    pub(super) fn prunes(&self) -> Vec<u64> {
        self.prunes.lock().unwrap().clone()
    }

    pub(super) fn has(&self, endpoint: &str) -> bool {
        self.endpoints.lock().unwrap().iter().any(|stored| stored.id.as_str() == endpoint)
    }

    pub(super) fn stored(&self, endpoint: &str) -> StoredEndpoint {
        let endpoints = self.endpoints.lock().unwrap();
        endpoints.iter().find(|stored| stored.id.as_str() == endpoint).unwrap().clone()
    }

    pub(super) fn add_for(&self, endpoint: &str) -> DeliveryId {
        self.add(Claim { endpoint: EndpointId::new(endpoint).unwrap(), ..claim() })
    }

    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    pub(super) fn row(&self, id: DeliveryId) -> Row {
        self.rows.lock().unwrap().iter().find(|row| row.claim.delivery == id).unwrap().clone()
    }

    pub(super) fn rows_for(&self, endpoint: &str) -> Vec<Row> {
        let rows = self.rows.lock().unwrap();
        rows.iter().filter(|row| row.claim.endpoint.as_str() == endpoint).cloned().collect()
    }

    /// Waits until so many attempts at the delivery are recorded.
    pub(super) async fn attempted(&self, id: DeliveryId, count: usize) -> Row {
        self.until(|| self.row(id).attempts.len() >= count).await;
        self.row(id)
    }

    /// Waits until so many calls have failed, counted from now.
    pub(super) async fn failed(&self, count: u64) {
        let enough = self.failures.load(Ordering::SeqCst) + count;
        self.until(|| self.failures.load(Ordering::SeqCst) >= enough).await;
    }

    pub(super) async fn until(&self, reached: impl Fn() -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = changed.wait_for(|_| reached());
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "the outbox is {:#?}", self.rows);
    }

    fn changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn fails(&self, switch: &AtomicBool, operation: &'static str) -> state::Result<()> {
        if !switch.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.failures.fetch_add(1, Ordering::SeqCst);
        self.changed();
        Err(state::Error::NoSpace { operation })
    }
}

#[async_trait]
impl Endpoints for FakeOutbox {
    async fn open_for(&self, _: InstanceId, configured: Vec<StoredEndpoint>, _: Timestamp) -> state::Result<()> {
        let written =
            configured.into_iter().map(|endpoint| StoredEndpoint { version: endpoint.version + 1, ..endpoint });
        *self.endpoints.lock().unwrap() = written.collect();
        Ok(())
    }

    async fn endpoints(&self) -> state::Result<Vec<StoredEndpoint>> {
        Ok(self.endpoints.lock().unwrap().clone())
    }

    async fn put_endpoint(&self, endpoint: StoredEndpoint, _: Timestamp) -> state::Result<StoredEndpoint> {
        self.fails(&self.writes_fail, "record an endpoint")?;
        let written = StoredEndpoint { version: endpoint.version + 1, ..endpoint };
        let mut endpoints = self.endpoints.lock().unwrap();
        let before = endpoints.iter().position(|stored| stored.id == written.id);
        if before.map_or(0, |at| endpoints[at].version) + 1 != written.version {
            return Err(state::Error::EndpointConflict(written.id));
        }
        match before {
            Some(at) => endpoints[at] = written.clone(),
            None => endpoints.push(written.clone()),
        }
        drop(endpoints);
        if !written.state.is_enabled() {
            for row in self.rows.lock().unwrap().iter_mut().filter(|row| row.claim.endpoint == written.id) {
                if matches!(row.state, DeliveryState::Ready | DeliveryState::Waiting) {
                    row.state = DeliveryState::Paused;
                }
            }
        }
        self.changed();
        Ok(written)
    }

    async fn remove_endpoint(&self, id: &EndpointId, _: Timestamp) -> state::Result<bool> {
        let was_there = {
            let mut endpoints = self.endpoints.lock().unwrap();
            let before = endpoints.len();
            endpoints.retain(|stored| stored.id != *id);
            endpoints.len() < before
        };
        self.changed();
        while self.holds_removals.load(Ordering::SeqCst) {
            yield_now().await;
        }
        Ok(was_there)
    }

    async fn cancel_backlog(&self, id: &EndpointId, _: Timestamp) -> state::Result<()> {
        for row in self.rows.lock().unwrap().iter_mut().filter(|row| row.claim.endpoint == *id) {
            if matches!(row.state, DeliveryState::Ready | DeliveryState::Waiting | DeliveryState::Paused) {
                row.state = DeliveryState::Cancelled;
            }
        }
        Ok(())
    }

    async fn advance_backlog(&self, _: u32, _: Timestamp) -> state::Result<bool> {
        Ok(false)
    }
}

#[async_trait]
impl Dispatch for FakeOutbox {
    async fn claim_due(
        &self,
        _: InstanceId,
        slots: &[(EndpointId, u32)],
        now: Timestamp,
        lease: Duration,
    ) -> state::Result<Vec<Claim>> {
        self.fails(&self.claims_fail, "claim deliveries")?;
        if self.claims_hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut rows = self.rows.lock().unwrap();
        let mut claims = Vec::new();
        for (endpoint, count) in slots {
            let due = rows.iter_mut().filter(|row| row.claim.endpoint == *endpoint && row.is_due(now));
            for row in due.take(usize::try_from(*count).unwrap()) {
                row.state = DeliveryState::Leased;
                row.due = now.plus(lease);
                row.claim.lease = rand::random();
                claims.push(row.claim.clone());
            }
        }
        Ok(claims)
    }

    async fn settle(&self, settled: Settled, now: Timestamp) -> state::Result<()> {
        self.fails(&self.writes_fail, "settle deliveries")?;
        for (id, health) in settled.health {
            if let Some(stored) = self.endpoints.lock().unwrap().iter_mut().find(|stored| stored.id == id) {
                stored.health = health;
            }
        }
        let is_stopped = |id: &EndpointId| {
            let endpoints = self.endpoints.lock().unwrap();
            endpoints.iter().any(|stored| stored.id == *id && !stored.state.is_enabled())
        };
        let mut rows = self.rows.lock().unwrap();
        for settlement in settled.settlements {
            let row = rows.iter_mut().find(|row| row.claim.delivery == settlement.delivery).unwrap();
            row.attempts.push((settlement.attempt.clone(), settlement.verdict));
            if row.state != DeliveryState::Leased || row.claim.lease != settlement.lease {
                continue;
            }
            row.claim.attempts += u32::from(settlement.attempt.outcome != AttemptOutcome::Aborted);
            (row.state, row.due) = match settlement.verdict {
                Verdict::Succeeded => (DeliveryState::Succeeded, now),
                Verdict::RetryAt(at) if is_stopped(&row.claim.endpoint) => (DeliveryState::Paused, at),
                Verdict::RetryAt(at) => (DeliveryState::Ready, at),
                Verdict::Dead => (DeliveryState::Dead, now),
                Verdict::Cancelled => (DeliveryState::Cancelled, now),
            };
            let claim = row.claim.clone();
            let waiting = |row: &&mut Row| row.same_lane(&claim) && row.state == DeliveryState::Waiting;
            if let Some(next) = rows.iter_mut().find(waiting) {
                next.state = DeliveryState::Ready;
            }
        }
        drop(rows);
        self.bell.notify_one();
        self.changed();
        Ok(())
    }

    async fn renew_leases(&self, _: InstanceId, until: Timestamp) -> state::Result<()> {
        for row in self.rows.lock().unwrap().iter_mut().filter(|row| row.state == DeliveryState::Leased) {
            row.due = until;
        }
        Ok(())
    }

    async fn begin_waits(&self, now: Timestamp) -> state::Result<u64> {
        let waits_since = |row: &Row| row.attempts.iter().map(|(attempt, _)| attempt.started_at).max();
        let mut begun = 0;
        for row in self.rows.lock().unwrap().iter_mut() {
            let is_ahead = waits_since(row).is_none_or(|since| since > now);
            if row.state == DeliveryState::Ready && row.due > now && is_ahead {
                row.due = now;
                begun += 1;
            }
        }
        self.bell.notify_one();
        self.changed();
        Ok(begun)
    }

    async fn next_due(&self, endpoints: &[EndpointId]) -> state::Result<Option<Timestamp>> {
        let rows = self.rows.lock().unwrap();
        let open = |row: &&Row| matches!(row.state, DeliveryState::Ready | DeliveryState::Leased);
        Ok(rows.iter().filter(open).filter(|row| endpoints.contains(&row.claim.endpoint)).map(|row| row.due).min())
    }

    async fn test_endpoint(
        &self,
        _: InstanceId,
        id: &EndpointId,
        now: Timestamp,
        lease: Duration,
    ) -> state::Result<Option<Claim>> {
        let claim = Claim {
            endpoint: id.clone(),
            lease: rand::random(),
            kind: EventKind::Ping,
            class: DeliveryClass::Test,
            trigger: Trigger::Test,
            upload: None,
            ..claim()
        };
        let row =
            Row { claim: claim.clone(), state: DeliveryState::Leased, due: now.plus(lease), attempts: Vec::new() };
        self.rows.lock().unwrap().push(row);
        Ok(Some(claim))
    }

    fn bell(&self) -> Arc<Notify> {
        if self.is_never_quiet.load(Ordering::SeqCst) {
            self.ring();
        }
        Arc::clone(&self.bell)
    }
}

#[async_trait]
impl Deliveries for FakeOutbox {
    async fn deliveries(&self, _scope: TenantScope, _: &DeliveryQuery) -> state::Result<DeliveryPage> {
        Ok(DeliveryPage { found: Vec::new(), next: None })
    }

    async fn delivery(&self, _scope: TenantScope, _: DeliveryId) -> state::Result<Option<DeliveryRecord>> {
        Ok(None)
    }

    async fn backlog(&self, _: Option<&EndpointId>) -> state::Result<Backlog> {
        Ok(Backlog::default())
    }

    async fn replay(&self, _: DeliveryId, _: bool, _: Timestamp) -> state::Result<Replayed> {
        Ok(Replayed::NoDelivery)
    }
}

#[async_trait]
impl Notices for FakeOutbox {
    async fn announce(&self, notice: Notice, _: Timestamp) -> state::Result<()> {
        self.notices.lock().unwrap().push(notice);
        self.changed();
        Ok(())
    }
}

#[async_trait]
impl Replays for FakeOutbox {
    async fn begin_replay(&self, job: ReplayJob) -> state::Result<ReplayJob> {
        self.jobs.lock().unwrap().push(job.clone());
        Ok(job)
    }

    async fn replay_jobs(&self) -> state::Result<Vec<ReplayJob>> {
        Ok(self.jobs.lock().unwrap().clone())
    }

    async fn advance_replay(&self, id: ReplayId, _: u32, now: Timestamp) -> state::Result<Option<ReplayJob>> {
        let mut jobs = self.jobs.lock().unwrap();
        let job = jobs.iter_mut().find(|job| job.id == id);
        let job = job.map(|job| {
            (job.state, job.finished_at) = (ReplayState::Done, Some(now));
            job.clone()
        });
        drop(jobs);
        self.jobs_done.lock().unwrap().push(id);
        self.changed();
        Ok(job)
    }

    async fn cancel_replay(&self, _: ReplayId, _: Timestamp) -> state::Result<bool> {
        Ok(false)
    }
}

#[async_trait]
impl Retention for FakeOutbox {
    async fn expire(&self, begun_before: Timestamp, limit: u32, _: Timestamp) -> state::Result<u64> {
        let mut rows = self.rows.lock().unwrap();
        let is_old = |row: &&mut Row| row.state == DeliveryState::Ready && row.claim.begun_at < begun_before;
        let mut ended = 0;
        for row in rows.iter_mut().filter(is_old).take(usize::try_from(limit).unwrap()) {
            row.state = DeliveryState::Dead;
            ended += 1;
        }
        drop(rows);
        self.changed();
        Ok(ended)
    }

    async fn shed(&self, _: BacklogLimits, _: u32, _: Timestamp) -> state::Result<Vec<(EndpointId, u64)>> {
        Ok(Vec::new())
    }

    async fn prune(&self, _: Horizon, limit: u32) -> state::Result<u64> {
        let removed = self.old_rows.load(Ordering::SeqCst).min(u64::from(limit));
        self.old_rows.fetch_sub(removed, Ordering::SeqCst);
        self.prunes.lock().unwrap().push(removed);
        self.changed();
        Ok(removed)
    }

    async fn expunge(&self, _: UploadId) -> state::Result<u64> {
        Ok(0)
    }

    fn superseded(&self) -> u64 {
        self.superseded.load(Ordering::SeqCst)
    }
}
