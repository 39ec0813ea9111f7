//! Fixtures for tests of the sender: a receiver on a real socket that responds as scripted, and an outbox in
//! memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::{SendableEndpoint, Vault};
use domain::delivery::{
    Attempt, AttemptOutcome, AttemptTrigger, Backlog, DeliveryClass, DeliveryRecord, DeliveryState, Disposition,
    ReplayOutcome,
};
use domain::dialect::Dialect;
use domain::duty::Duty;
use domain::endpoint::{Endpoint as StoredEndpoint, EndpointId, EndpointTerms};
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, InstanceId, ReplayId, UploadId};
use domain::lane::ClaimLimits;
use domain::metadata::Metadata;
use domain::notice::Notice;
use domain::principal::{TenantId, TenantScope};
use domain::query::{DeliveryPage, DeliveryQuery};
use domain::replay::{ReplayJob, ReplayState};
use domain::size::Length;
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::{NewUpload, Record, Role, Upload, UploadTerms};
use domain::write_rules::{Completion, WriteOrder, WriteRules};
use keyring::ServerKeys;
use outbound::address::EgressRules;
use outbound::keys::{SigningKey, SigningKeys};
pub(super) use outbound::testing::{Receiver, SECRET, Script, wall_clock};
use state::clock::{Clock, ClockReading};
use state::memory::{MemoryDatabase, MemoryState};
use state::{
    BacklogLimits, Change, Claim, ConfigurationStanding, Deliveries, Dispatch, Duties, EndpointConfiguration,
    Endpoints, Notices, Replays, Retention, RetentionHorizon, SettlementBatch, Store, Uploads,
};

/// Maximum time that a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn endpoint(name: &str, url: &str) -> SendableEndpoint {
    endpoint_with(name, url, |_| {})
}

/// Returns an endpoint of the configuration that gets the events of the uploads addressed to it by their
/// metadata.
pub(super) fn endpoint_with(name: &str, url: &str, change: impl FnOnce(&mut EndpointTerms)) -> SendableEndpoint {
    let (id, now) = (EndpointId::new(name).unwrap(), wall_clock());
    let keys = SigningKeys::permanent([SigningKey::parse(SECRET).unwrap()], now);
    let mut terms = EndpointTerms::of(url);
    terms.metadata = vec![(FOR.to_owned(), name.to_owned())];
    change(&mut terms);
    SendableEndpoint::configured(id, terms, keys, &[], &EgressRules::default(), now).unwrap()
}

/// The node whose sender is tested.
pub(super) fn node() -> InstanceId {
    InstanceId::new(Timestamp::from_unix_ms(0), [7; 10])
}

/// Returns the limits of a claim of this many deliveries by a node that sends nothing else.
pub(super) fn up_to(name: &str, slots: u32) -> (EndpointId, ClaimLimits) {
    let longest_pause = Duration::from_secs(60);
    let limits = ClaimLimits { slots, in_flight: 0, max_in_flight: u32::MAX, longest_pause };
    (EndpointId::new(name).unwrap(), limits)
}

/// Returns a vault that always has the same server key.
pub(super) fn vault() -> Vault {
    Vault::new(&ServerKeys::generate([7; 32], [7; 4]))
}

pub(super) fn claim() -> Claim {
    let now = wall_clock();
    Claim {
        delivery: DeliveryId::new(now, rand::random()),
        lease: [0; 16],
        endpoint: EndpointId::new("app").unwrap(),
        endpoint_version: 1,
        event: EventId::new(now, rand::random()),
        kind: EventKind::Completed,
        class: DeliveryClass::Normal,
        trigger: AttemptTrigger::Auto,
        upload: Some(UploadId::new(now, rand::random())),
        occurred_at: now,
        begun_at: now,
        attempts: 0,
        attempts_before: 0,
        is_taken_over: false,
        body: Bytes::from_static(br#"{"type":"upload.completed"}"#),
    }
}

/// Key of the metadata that names the endpoint of an upload.
pub(super) const FOR: &str = "for";

pub(super) fn asked(id: UploadId) -> NewUpload {
    NewUpload {
        id,
        tenant: TenantId::DEFAULT,
        dialect: Dialect::named("tus"),
        write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
        role: Role::Single,
        length: Length::new(1),
        metadata: Metadata::default(),
        metadata_as_sent: None,
        terms: UploadTerms::default(),
        wanted_digests: Vec::new(),
        promised_digests: Vec::new(),
        expires_at: wall_clock(),
    }
}

/// A running clock that a test can move forward and set.
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

    fn read(&self) -> ClockReading {
        let passed = Duration::from_millis(self.passed_ms.load(Ordering::SeqCst));
        let set_by_ms = self.set_by_ms.load(Ordering::SeqCst);
        let time_of_day = Timestamp::from_unix_ms(wall_clock().plus(passed).unix_ms() + set_by_ms);
        ClockReading { time_of_day, running: self.begun.elapsed() + passed }
    }

    pub(super) fn clock(&self) -> Clock {
        let read = self.clone();
        Clock::new(move || read.read())
    }
}

/// The state in memory, with switches for failures, and with a bell for every change.
#[derive(Debug)]
pub(super) struct TestOutbox {
    inner: Arc<MemoryState>,
    changed: watch::Sender<u64>,
    /// While set, claiming fails.
    pub(super) claims_fail: AtomicBool,
    /// While set, claiming never returns.
    pub(super) claims_hang: AtomicBool,
    /// While set, the bell rings again at every wait, as if something were always being committed.
    pub(super) is_never_quiet: AtomicBool,
    /// While set, the removal of an endpoint returns only after a delay.
    pub(super) holds_removals: AtomicBool,
    /// While set, settling and pausing fail.
    pub(super) writes_fail: AtomicBool,
    failures: AtomicU64,
    attempts: Mutex<HashMap<DeliveryId, Vec<(Attempt, Disposition)>>>,
    pub(super) notices: Mutex<Vec<Notice>>,
    jobs_done: Mutex<Vec<ReplayId>>,
    prunes: Mutex<Vec<u64>>,
}

impl Default for TestOutbox {
    fn default() -> Self {
        Self::by(&TestClock::default())
    }
}

impl TestOutbox {
    pub(super) fn by(clock: &TestClock) -> Self {
        Self {
            inner: MemoryDatabase::new(crate::bodies()).open_by(clock.clock()),
            changed: watch::Sender::new(0),
            claims_fail: AtomicBool::default(),
            claims_hang: AtomicBool::default(),
            is_never_quiet: AtomicBool::default(),
            holds_removals: AtomicBool::default(),
            writes_fail: AtomicBool::default(),
            failures: AtomicU64::default(),
            attempts: Mutex::default(),
            notices: Mutex::default(),
            jobs_done: Mutex::default(),
            prunes: Mutex::default(),
        }
    }
}

/// An event for one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) endpoint: EndpointId,
    pub(super) upload: UploadId,
    pub(super) at: Timestamp,
    pub(super) body: &'static str,
}

/// Returns an event for the endpoint `app`, of a new upload.
pub(super) fn sample() -> Sample {
    let at = wall_clock();
    let upload = UploadId::new(at, rand::random());
    Sample { endpoint: EndpointId::new("app").unwrap(), upload, at, body: r#"{"type":"upload.completed"}"# }
}

/// A delivery with its attempts.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) event: EventId,
    pub(super) state: DeliveryState,
    pub(super) attempts: Vec<(Attempt, Disposition)>,
}

impl Row {
    pub(super) fn outcomes(&self) -> Vec<AttemptOutcome> {
        self.attempts.iter().map(|(attempt, _)| attempt.outcome).collect()
    }

    pub(super) fn last(&self) -> &(Attempt, Disposition) {
        self.attempts.last().expect("an attempt was made")
    }
}

/// Returns the result of a call to the state in memory, which never waits.
fn at_once<T>(work: impl Future<Output = state::Result<T>>) -> T {
    work.now_or_never().expect("nothing to wait for").unwrap()
}

impl TestOutbox {
    /// Adds a delivery. If its endpoint does not exist, it is created as one of the configuration.
    pub(super) fn add(&self, sample: Sample) -> DeliveryId {
        let Sample { endpoint: to, upload, .. } = sample.clone();
        if !self.has(to.as_str()) {
            let configured = endpoint(to.as_str(), "http://localhost/").stored().clone();
            at_once(self.inner.open_for(node(), vec![configured], sample.at));
        }
        self.log(sample);
        let query = DeliveryQuery { endpoint: Some(to), upload: Some(upload), limit: 1, ..DeliveryQuery::default() };
        let newest = at_once(self.inner.deliveries(TenantScope::All, &query)).found;
        newest.first().expect("its endpoint wants it").id
    }

    /// Registers endpoints of the configuration.
    pub(super) fn configure_now(&self, configured: Vec<StoredEndpoint>) {
        at_once(self.inner.open_for(node(), configured, wall_clock()));
    }

    /// Records that an upload has completed, again if it has completed before.
    fn log(&self, sample: Sample) {
        let known = at_once(self.inner.find(TenantScope::All, sample.upload));
        let before = known.clone().unwrap_or_else(|| {
            let to = vec![(FOR.to_owned(), sample.endpoint.as_str().as_bytes().to_vec())];
            Upload::create(NewUpload { metadata: Metadata::new(to).unwrap(), ..asked(sample.upload) }, sample.at)
        });
        let mut upload = Upload::from_record(Record { stage: Stage::Stored, ..before.record().clone() });
        upload.complete(sample.at);
        let change = Change::new(upload, |_, _| sample.body.to_owned(), rand::random);
        match known {
            Some(_) => drop(at_once(self.inner.commit(change))),
            None => drop(at_once(self.inner.insert(change))),
        }
    }

    /// Returns the replays that have ended, in that order.
    pub(super) fn jobs_done(&self) -> Vec<ReplayId> {
        self.jobs_done.lock().unwrap().clone()
    }

    /// Adds `count` old rows: events without deliveries.
    pub(super) fn add_old_rows(&self, count: u64) {
        let at = wall_clock().minus(Duration::from_hours(24 * 60));
        let nobody = EndpointId::new("nobody").unwrap();
        for _ in 0..count {
            self.log(Sample { endpoint: nobody.clone(), at, ..sample() });
        }
    }

    /// Returns the number of rows that each call has removed.
    pub(super) fn prunes(&self) -> Vec<u64> {
        self.prunes.lock().unwrap().clone()
    }

    pub(super) fn has(&self, endpoint: &str) -> bool {
        at_once(self.inner.endpoints(TenantScope::All)).iter().any(|stored| stored.id.as_str() == endpoint)
    }

    pub(super) fn stored(&self, endpoint: &str) -> StoredEndpoint {
        at_once(self.inner.endpoints(TenantScope::All))
            .into_iter()
            .find(|stored| stored.id.as_str() == endpoint)
            .unwrap()
    }

    pub(super) fn add_for(&self, endpoint: &str) -> DeliveryId {
        self.add(Sample { endpoint: EndpointId::new(endpoint).unwrap(), ..sample() })
    }

    pub(super) fn ring(&self) {
        self.inner.bell().notify_one();
    }

    pub(super) fn row(&self, id: DeliveryId) -> Row {
        self.row_of(&at_once(self.inner.delivery(TenantScope::All, id)).unwrap())
    }

    fn row_of(&self, delivery: &DeliveryRecord) -> Row {
        let attempts = self.attempts.lock().unwrap().get(&delivery.id).cloned().unwrap_or_default();
        Row { event: delivery.event, state: delivery.state, attempts }
    }

    pub(super) fn rows_for(&self, endpoint: &str) -> Vec<Row> {
        let endpoint = EndpointId::new(endpoint);
        let query = DeliveryQuery { endpoint, limit: 10_000, ..DeliveryQuery::default() };
        at_once(self.inner.deliveries(TenantScope::All, &query)).found.iter().map(|it| self.row_of(it)).collect()
    }

    /// Waits until `count` attempts at the delivery are recorded.
    pub(super) async fn attempted(&self, id: DeliveryId, count: usize) -> Row {
        self.until(|| self.row(id).attempts.len() >= count).await;
        self.row(id)
    }

    /// Waits until `count` more calls have failed.
    pub(super) async fn failed(&self, count: u64) {
        let enough = self.failures.load(Ordering::SeqCst) + count;
        self.until(|| self.failures.load(Ordering::SeqCst) >= enough).await;
    }

    pub(super) async fn until(&self, reached: impl Fn() -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = changed.wait_for(|_| reached());
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "the outbox is {:#?}", self.inner);
    }

    fn changed<T>(&self, done: T) -> T {
        self.changed.send_modify(|count| *count += 1);
        done
    }

    fn fails(&self, switch: &AtomicBool, operation: &'static str) -> state::Result<()> {
        if !switch.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.failures.fetch_add(1, Ordering::SeqCst);
        self.changed(Err(state::Error::NoSpace { operation }))
    }
}

#[async_trait]
impl Endpoints for TestOutbox {
    async fn configure(
        &self,
        node: InstanceId,
        configuration: EndpointConfiguration,
        now: Timestamp,
    ) -> state::Result<ConfigurationStanding> {
        self.inner.configure(node, configuration, now).await
    }

    async fn endpoints(&self, scope: TenantScope) -> state::Result<Vec<StoredEndpoint>> {
        self.inner.endpoints(scope).await
    }

    async fn put_endpoint(&self, endpoint: StoredEndpoint, now: Timestamp) -> state::Result<StoredEndpoint> {
        self.fails(&self.writes_fail, "record an endpoint")?;
        self.changed(self.inner.put_endpoint(endpoint, now).await)
    }

    async fn add_endpoint(
        &self,
        endpoint: StoredEndpoint,
        most: u32,
        now: Timestamp,
    ) -> state::Result<Option<StoredEndpoint>> {
        self.fails(&self.writes_fail, "record an endpoint")?;
        self.changed(self.inner.add_endpoint(endpoint, most, now).await)
    }

    async fn remove_endpoint(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> state::Result<bool> {
        let was_there = self.changed(self.inner.remove_endpoint(scope, id, now).await);
        while self.holds_removals.load(Ordering::SeqCst) {
            yield_now().await;
        }
        was_there
    }

    async fn cancel_backlog(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> state::Result<bool> {
        self.inner.cancel_backlog(scope, id, now).await
    }

    async fn advance_backlog(&self, limit: u32, now: Timestamp) -> state::Result<bool> {
        self.inner.advance_backlog(limit, now).await
    }
}

#[async_trait]
impl Dispatch for TestOutbox {
    async fn claim_due(
        &self,
        node: InstanceId,
        limits: &[(EndpointId, ClaimLimits)],
        now: Timestamp,
        lease: Duration,
    ) -> state::Result<Vec<Claim>> {
        self.fails(&self.claims_fail, "claim deliveries")?;
        if self.claims_hang.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.inner.claim_due(node, limits, now, lease).await
    }

    async fn settle(&self, settled: SettlementBatch, now: Timestamp) -> state::Result<()> {
        self.fails(&self.writes_fail, "settle deliveries")?;
        self.inner.settle(settled.clone(), now).await?;
        for settlement in settled.settlements {
            let mut attempts = self.attempts.lock().unwrap();
            attempts.entry(settlement.delivery).or_default().push((settlement.attempt, settlement.disposition));
        }
        self.changed(Ok(()))
    }

    async fn renew_leases(&self, node: InstanceId, until: Timestamp) -> state::Result<()> {
        self.inner.renew_leases(node, until).await
    }

    async fn restart_waits(&self, now: Timestamp) -> state::Result<u64> {
        self.changed(self.inner.restart_waits(now).await)
    }

    async fn next_due(&self, endpoints: &[EndpointId]) -> state::Result<Option<Timestamp>> {
        self.inner.next_due(endpoints).await
    }

    async fn test_endpoint(
        &self,
        scope: TenantScope,
        node: InstanceId,
        id: &EndpointId,
        now: Timestamp,
        lease: Duration,
    ) -> state::Result<Option<Claim>> {
        self.inner.test_endpoint(scope, node, id, now, lease).await
    }

    fn bell(&self) -> Arc<Notify> {
        if self.is_never_quiet.load(Ordering::SeqCst) {
            self.ring();
        }
        self.inner.bell()
    }
}

#[async_trait]
impl Deliveries for TestOutbox {
    async fn deliveries(&self, scope: TenantScope, query: &DeliveryQuery) -> state::Result<DeliveryPage> {
        self.inner.deliveries(scope, query).await
    }

    async fn delivery(&self, scope: TenantScope, id: DeliveryId) -> state::Result<Option<DeliveryRecord>> {
        self.inner.delivery(scope, id).await
    }

    async fn backlog(&self, scope: TenantScope, endpoint: Option<&EndpointId>) -> state::Result<Backlog> {
        self.inner.backlog(scope, endpoint).await
    }

    async fn replay(
        &self,
        scope: TenantScope,
        id: DeliveryId,
        force: bool,
        now: Timestamp,
    ) -> state::Result<ReplayOutcome> {
        self.inner.replay(scope, id, force, now).await
    }
}

#[async_trait]
impl Duties for TestOutbox {
    async fn claim_duty(&self, duty: Duty, node: InstanceId, lasts: Duration) -> state::Result<bool> {
        self.inner.claim_duty(duty, node, lasts).await
    }
}

#[async_trait]
impl Store for TestOutbox {
    async fn check(&self) -> state::Result<()> {
        self.inner.check().await
    }

    fn clock(&self) -> Clock {
        self.inner.clock()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Notices for TestOutbox {
    async fn announce(&self, tenant: TenantId, notice: Notice, now: Timestamp) -> state::Result<()> {
        self.notices.lock().unwrap().push(notice.clone());
        self.changed(self.inner.announce(tenant, notice, now).await)
    }
}

#[async_trait]
impl Replays for TestOutbox {
    async fn begin_replay(&self, job: ReplayJob) -> state::Result<ReplayJob> {
        self.inner.begin_replay(job).await
    }

    async fn replay_jobs(&self, scope: TenantScope) -> state::Result<Vec<ReplayJob>> {
        self.inner.replay_jobs(scope).await
    }

    async fn advance_replay(&self, id: ReplayId, limit: u32, now: Timestamp) -> state::Result<Option<ReplayJob>> {
        let job = self.inner.advance_replay(id, limit, now).await?;
        if job.as_ref().is_some_and(|job| job.state != ReplayState::Running) {
            self.jobs_done.lock().unwrap().push(id);
        }
        self.changed(Ok(job))
    }

    async fn cancel_replay(&self, scope: TenantScope, id: ReplayId, now: Timestamp) -> state::Result<bool> {
        self.inner.cancel_replay(scope, id, now).await
    }
}

#[async_trait]
impl Retention for TestOutbox {
    async fn expire(&self, begun_before: Timestamp, limit: u32, now: Timestamp) -> state::Result<u64> {
        self.changed(self.inner.expire(begun_before, limit, now).await)
    }

    async fn drop_excess(
        &self,
        limits: BacklogLimits,
        limit: u32,
        now: Timestamp,
    ) -> state::Result<Vec<(EndpointId, u64)>> {
        self.inner.drop_excess(limits, limit, now).await
    }

    async fn prune(&self, horizon: RetentionHorizon, limit: u32) -> state::Result<u64> {
        let removed = self.inner.prune(horizon, limit).await?;
        self.prunes.lock().unwrap().push(removed);
        self.changed(Ok(removed))
    }

    async fn expunge(&self, scope: TenantScope, upload: UploadId) -> state::Result<u64> {
        self.inner.expunge(scope, upload).await
    }

    fn superseded(&self) -> u64 {
        self.inner.superseded()
    }
}
