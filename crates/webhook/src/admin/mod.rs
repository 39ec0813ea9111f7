//! Operators' actions on endpoints and deliveries, as values: no HTTP, no wire format.
//!
//! Each change is checked, written if the endpoint's version still matches, and handed to the running sender,
//! in that order. It takes effect with the next attempt, also for deliveries queued before it
//! (webhooks.md A4). Endpoints of the configuration can be paused, resumed and tested; everything else about
//! them is set in the configuration.

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderName;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::time::timeout;

use crate::endpoints::endpoint::{InvalidEndpoint, SendableEndpoint, checked_terms, read_headers};
use crate::endpoints::vault::{EndpointSecrets, UnreadableSecrets};
use crate::parts::SenderParts;
use crate::sending::dispatcher::TestRequest;
use crate::sending::registry::EndpointRegistry;
use domain::delivery::{Attempt, Backlog, ReplayOutcome, ReplaySelection};
use domain::endpoint::{Endpoint as Stored, EndpointId, EndpointState, EndpointTerms, Health, Origin};
use domain::health::HealthChange;
use domain::id::{DeliveryId, EventId, ReplayId, UploadId};
use domain::log::EventPosition;
use domain::principal::{TenantId, TenantScope};
use domain::replay::{ReplayJob, ReplayState};
use domain::time::Timestamp;
use outbound::address::{RejectedUrl, literal};
use outbound::keys::{InvalidKey, KeyEntry, KeyKind, SigningKey, SigningKeys, kinds_of};
use outbound::resolver::Lookup;
use state::SettlementBatch;

/// Maximum number of attempts to write a change that does not depend on the values read, when other writers
/// win.
const TRIES: u32 = 10;

/// Maximum number of replays that run or wait for their turn.
const MAX_RUNNING_REPLAYS: usize = 20;

/// Time allowed for a test besides its attempt: until the attempt starts, and until it is recorded.
const TEST_MARGIN: Duration = Duration::from_secs(10);

/// Timeout for resolving the host name of a new endpoint. If it expires, the endpoint is accepted; its
/// address is checked at every call.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Reason why an action was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("there is no endpoint {0}")]
    NoSuchEndpoint(EndpointId),
    #[error("endpoint {0} already exists")]
    Exists(EndpointId),
    #[error("endpoint {0} was changed concurrently; read it again")]
    Changed(EndpointId),
    #[error(
        "endpoint {0} is defined in the configuration file; change it there and restart the server (to rotate its secret, \
         put the new one into secret_file and the old one into old_secret_files)"
    )]
    Configured(EndpointId),
    #[error("there are {0} endpoints, which is the limit (webhooks.max_endpoints)")]
    TooManyEndpoints(usize),
    #[error("the endpoint is invalid: {0}")]
    Invalid(#[from] InvalidEndpoint),
    #[error("the key is invalid: {0}")]
    Key(#[from] InvalidKey),
    #[error("another endpoint has this secret; use a different secret, or leave it out to have one generated")]
    SecretTaken,
    #[error("the secrets of endpoint {0} cannot be read: {1}")]
    Unreadable(EndpointId, UnreadableSecrets),
    #[error("no webhooks are being sent at the moment; retry later")]
    NotSending,
    #[error("a replay of everything sends successful deliveries again; set force to confirm it")]
    NeedsForce,
    #[error("a replay of pending deliveries accepts no time range; it sends all of them")]
    TakesNoRange,
    #[error("the time range is empty: it ends before it begins")]
    EmptyRange,
    #[error("{MAX_RUNNING_REPLAYS} replays are running, which is the limit; wait for one to end, or cancel one")]
    TooManyReplays,
    #[error("there is no replay {0}, or it has ended")]
    NoSuchReplay(ReplayId),
    #[error(transparent)]
    State(#[from] state::Error),
}

type Result<T> = std::result::Result<T, AdminError>;

/// Definition of a new endpoint.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// Generated if absent.
    pub id: Option<EndpointId>,
    pub terms: EndpointTerms,
    /// Names and values of headers, sent with every message.
    pub headers: Vec<(String, String)>,
    /// A key supplied by the operator. Other keys that the endpoint needs are generated.
    pub key: Option<SigningKey>,
}

/// A change of an endpoint, based on a version that the caller has read.
#[derive(Debug, Clone)]
pub struct EndpointChange {
    /// The version that the caller has read.
    pub version: u64,
    pub terms: EndpointTerms,
    /// `None` leaves the headers unchanged.
    pub headers: Option<Vec<(String, String)>>,
}

/// A request for a new key of an endpoint.
#[derive(Debug, Clone)]
pub struct KeyRotation {
    /// Generated if absent.
    pub key: Option<SigningKey>,
    /// Kind of the generated key. If absent: the first kind of the endpoint's signatures, where the shared
    /// secret comes first.
    pub kind: Option<KeyKind>,
    /// Time for which the old key continues to sign alongside the new one.
    pub overlap: Duration,
}

/// The keys with which the receiver of an endpoint verifies its messages. Returned only once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct VerificationKeys {
    /// Shared secret: `whsec_…`
    pub secret: Option<String>,
    /// Public key: `whpk_…`
    pub public_key: Option<String>,
}

/// Omits the secret.
impl fmt::Debug for VerificationKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.secret.as_ref().map(|_| "redacted");
        f.debug_struct("VerificationKeys").field("secret", &secret).field("public_key", &self.public_key).finish()
    }
}

/// An endpoint with its backlog, keys and header names.
#[derive(Debug, Clone)]
pub struct EndpointOverview {
    pub endpoint: Stored,
    pub backlog: Backlog,
    /// Keys that sign at present, newest first. Empty if the endpoint's secrets cannot be read.
    pub keys: Vec<KeyOverview>,
    /// Names of the custom headers. Their values are secret.
    pub headers: Vec<String>,
}

/// The public facts about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOverview {
    pub kind: KeyKind,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub public_key: Option<String>,
}

/// The result of a test of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    pub delivery: DeliveryId,
    pub event: EventId,
    pub attempt: Attempt,
}

/// Selects the deliveries of a replay.
#[derive(Debug, Clone)]
pub struct ReplayRequest {
    pub endpoint: EndpointId,
    pub what: ReplaySelection,
    pub from: Timestamp,
    /// End of the range, exclusive. `None` stands for the current time.
    pub before: Option<Timestamp>,
    /// Set to include deliveries that have succeeded.
    pub force: bool,
}

/// Options for resuming a stopped endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resumption {
    /// Set to cancel the waiting deliveries. The backlog of an endpoint that is not stopped is kept, so
    /// repeating the request cancels nothing that was queued after the first one.
    pub drops_backlog: bool,
    /// Also queues every event since this time that the endpoint wants and has never received: its delivery
    /// was abandoned or cancelled, or the event is from before the endpoint's creation.
    pub missed_since: Option<Timestamp>,
}

/// A replay that has passed all checks.
enum PlannedReplay {
    /// An identical replay that is already running.
    Running(ReplayJob),
    New(ReplayJob),
}

impl PlannedReplay {
    /// Returns the same replay from its beginning, with the range extended to now.
    fn restarted(self, now: Timestamp) -> Self {
        let (Self::Running(job) | Self::New(job)) = self;
        Self::New(ReplayJob {
            id: ReplayId::new(now, rand::random()),
            before: now.plus(Duration::from_millis(1)),
            cursor: EventPosition(0),
            queued: 0,
            created_at: now,
            ..job
        })
    }
}

/// Administration of the endpoints of all tenants. Clones act on the same sender.
#[derive(Clone)]
pub struct Administration(Arc<Inner>);

/// Changes the endpoints of one tenant and replays deliveries to them. Endpoints of other tenants do not
/// exist for it.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
    tenant: TenantId,
}

struct Inner {
    parts: SenderParts,
    registry: Arc<EndpointRegistry>,
    lookup: Lookup,
    test_requests: mpsc::Sender<TestRequest>,
    replays: Arc<Notify>,
    /// Held by operations that depend on other rows, from reading until writing.
    check_and_write: Mutex<()>,
}

impl fmt::Debug for Administration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Administration").field(&self.0.parts).finish()
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("tenant", &self.tenant).field("parts", &self.inner.parts).finish()
    }
}

impl Administration {
    pub(crate) fn new(
        parts: SenderParts,
        registry: Arc<EndpointRegistry>,
        lookup: Lookup,
        test_requests: mpsc::Sender<TestRequest>,
        replays: Arc<Notify>,
    ) -> Self {
        Self(Arc::new(Inner { parts, registry, lookup, test_requests, replays, check_and_write: Mutex::default() }))
    }

    /// Returns the administration of one tenant.
    pub fn of(&self, tenant: TenantId) -> Admin {
        Admin { inner: Arc::clone(&self.0), tenant }
    }
}

impl Admin {
    fn scope(&self) -> TenantScope {
        TenantScope::One(self.tenant)
    }

    /// Checks whether an endpoint created through the API may have this URL, without resolving its name.
    pub fn check_url(&self, url: &str) -> std::result::Result<(), RejectedUrl> {
        self.inner.parts.rules.check_url(url, Origin::Api).map(drop)
    }

    /// Returns the endpoints of the tenant, ordered by name.
    pub async fn endpoints(&self) -> Result<Vec<EndpointOverview>> {
        let mut overviews = Vec::new();
        for stored in self.inner.parts.outbox.endpoints(self.scope()).await? {
            overviews.push(self.overview(stored).await?);
        }
        Ok(overviews)
    }

    pub async fn endpoint(&self, id: &EndpointId) -> Result<EndpointOverview> {
        let stored = self.inner.stored(self.scope(), id).await?;
        self.overview(stored).await
    }

    async fn overview(&self, stored: Stored) -> Result<EndpointOverview> {
        let backlog = self.inner.parts.outbox.backlog(self.scope(), Some(&stored.id)).await?;
        let secrets = self.inner.secrets(&stored).unwrap_or_default();
        Ok(EndpointOverview {
            backlog,
            keys: secrets.keys.live(self.inner.now()).map(key_overview).collect(),
            headers: secrets.headers.keys().map(HeaderName::to_string).collect(),
            endpoint: stored,
        })
    }

    /// Creates an endpoint. Its receiver's verification keys are returned here and never again.
    pub async fn create(&self, new: NewEndpoint) -> Result<(Stored, VerificationKeys)> {
        let (inner, now) = (&self.inner, self.inner.now());
        let terms = inner.checked(new.terms).await?;
        let headers = read_headers(&new.headers)?;
        let id = new.id.unwrap_or_else(|| generated_id(now));
        let _guard = inner.check_and_write.lock().await;
        let endpoints = inner.parts.outbox.endpoints(self.scope()).await?;
        if endpoints.iter().any(|stored| stored.id == id) {
            return Err(AdminError::Exists(id));
        }
        inner.check_unshared(new.key.as_ref(), &endpoints)?;
        let secrets =
            EndpointSecrets { keys: SigningKeys::permanent(new.key, now).completed(terms.signing, now), headers };
        let stored = Stored::new(self.tenant, id, Origin::Api, terms, now);
        let verification_keys = verification_keys(&secrets.keys, kinds_of(stored.terms.signing), now);
        Ok((inner.add(stored, secrets).await?, verification_keys))
    }

    /// Changes the settings of an endpoint. Keys that the change requires are generated; their verification
    /// keys are returned here and never again.
    pub async fn update(&self, id: &EndpointId, change: EndpointChange) -> Result<(Stored, VerificationKeys)> {
        let (inner, now) = (&self.inner, self.inner.now());
        let stored = inner.changeable(self.scope(), id).await?;
        if stored.version != change.version {
            return Err(AdminError::Changed(id.clone()));
        }
        let terms = inner.checked(change.terms).await?;
        let secrets = inner.readable(&stored)?;
        let headers = match change.headers {
            Some(headers) => read_headers(&headers)?,
            None => secrets.headers,
        };
        let missing = secrets.keys.missing(terms.signing, now);
        let secrets = EndpointSecrets { keys: secrets.keys.completed(terms.signing, now), headers };
        let verification_keys = verification_keys(&secrets.keys, &missing, now);
        Ok((inner.write(Stored { terms, updated_at: now, ..stored }, secrets).await?, verification_keys))
    }

    /// Deletes an endpoint, or the remains of one that the configuration no longer contains. Its undelivered
    /// deliveries are cancelled.
    pub async fn delete(&self, id: &EndpointId) -> Result<()> {
        let inner = &self.inner;
        let _writing = inner.registry.write().await;
        match inner.changeable(self.scope(), id).await {
            Ok(_) | Err(AdminError::NoSuchEndpoint(_)) => {}
            Err(error) => return Err(error),
        }
        if !inner.parts.outbox.remove_endpoint(self.scope(), id, inner.now()).await? {
            return Err(AdminError::NoSuchEndpoint(id.clone()));
        }
        inner.registry.remove(id);
        Ok(())
    }

    /// Adds a new key to an endpoint (webhooks H10). The verification key is returned here and never again.
    pub async fn rotate(&self, id: &EndpointId, rotation: KeyRotation) -> Result<(Stored, VerificationKeys)> {
        let inner = &self.inner;
        let _guard = inner.check_and_write.lock().await;
        let mut others = inner.parts.outbox.endpoints(self.scope()).await?;
        others.retain(|stored| stored.id != *id);
        for _ in 0..TRIES {
            let stored = inner.changeable(self.scope(), id).await?;
            inner.check_unshared(rotation.key.as_ref(), &others)?;
            let now = inner.now();
            let secrets = inner.readable(&stored)?;
            let kind = rotation.kind.unwrap_or(kinds_of(stored.terms.signing)[0]);
            let key = rotation.key.clone().unwrap_or_else(|| SigningKey::generate(kind));
            let verification_keys = verification_key(&key);
            let secrets = EndpointSecrets { keys: secrets.keys.rotated(key, rotation.overlap, now)?, ..secrets };
            match inner.write(Stored { updated_at: now, ..stored }, secrets).await {
                Err(AdminError::Changed(_)) => {}
                written => return Ok((written?, verification_keys)),
            }
        }
        Err(AdminError::Changed(id.clone()))
    }

    /// Returns the public key with which the receiver of an endpoint verifies `v1a` signatures.
    pub async fn public_key(&self, id: &EndpointId) -> Result<Option<String>> {
        let stored = self.inner.stored(self.scope(), id).await?;
        let secrets = self.inner.readable(&stored)?;
        Ok(secrets.keys.current(KeyKind::Ed25519, self.inner.now()).map(SigningKey::for_receiver))
    }

    /// Pauses an endpoint; its deliveries wait. An endpoint that is already stopped keeps its state and
    /// reason.
    pub async fn pause(&self, id: &EndpointId) -> Result<Stored> {
        let paused = |stored: &Stored, now| match stored.state {
            EndpointState::Enabled => Some((EndpointState::Paused { since: now }, stored.health)),
            EndpointState::Paused { .. } | EndpointState::Disabled { .. } => None,
        };
        self.set_state(id, paused).await
    }

    /// Resumes an endpoint. Returns the replay of the events it has missed, if one was requested.
    pub async fn resume(&self, id: &EndpointId, how: Resumption) -> Result<(Stored, Option<ReplayJob>)> {
        let inner = &self.inner;
        let _guard = inner.check_and_write.lock().await;
        let was_stopped = !inner.stored(self.scope(), id).await?.state.is_enabled();
        // Check everything that can be rejected first, so that a rejection changes nothing.
        let mut planned = match how.missed_since {
            Some(from) => {
                let what = ReplaySelection::Missed;
                let missed = ReplayRequest { endpoint: id.clone(), what, from, before: None, force: false };
                Some(inner.planned(self.tenant, missed).await?)
            }
            None => None,
        };
        // Cancel the backlog before the replay begins; otherwise deliveries that the replay queues would be
        // cancelled too. The same holds for a replay that already runs, so it is cancelled and restarted. Its
        // range is extended to include the deliveries cancelled here.
        if how.drops_backlog && was_stopped {
            if let Some(PlannedReplay::Running(job)) = &planned {
                inner.parts.outbox.cancel_replay(self.scope(), job.id, inner.now()).await?;
            }
            inner.parts.outbox.cancel_backlog(self.scope(), id, inner.now()).await?;
            planned = planned.map(|planned| planned.restarted(inner.now()));
        }
        let job = match planned {
            Some(planned) => Some(inner.begun(planned).await?),
            None => None,
        };
        let resumed =
            |stored: &Stored, _| (!stored.state.is_enabled()).then_some((EndpointState::Enabled, Health::default()));
        Ok((self.set_state(id, resumed).await?, job))
    }

    /// Pauses every endpoint that is not stopped. Returns their number.
    pub async fn pause_all(&self) -> Result<usize> {
        let mut paused = 0;
        for stored in self.inner.parts.outbox.endpoints(self.scope()).await? {
            if stored.state.is_enabled() {
                self.pause(&stored.id).await?;
                paused += 1;
            }
        }
        Ok(paused)
    }

    /// Resumes every endpoint that an operator paused. Returns their number.
    pub async fn resume_all(&self) -> Result<usize> {
        let mut resumed = 0;
        for stored in self.inner.parts.outbox.endpoints(self.scope()).await? {
            if matches!(stored.state, EndpointState::Paused { .. }) {
                self.resume(&stored.id, Resumption::default()).await?;
                resumed += 1;
            }
        }
        Ok(resumed)
    }

    /// Writes the state that `next` returns. With `None` the endpoint stays unchanged.
    async fn set_state(
        &self,
        id: &EndpointId,
        next: impl Fn(&Stored, Timestamp) -> Option<(EndpointState, Health)>,
    ) -> Result<Stored> {
        let inner = &self.inner;
        for _ in 0..TRIES {
            let _writing = inner.registry.write().await;
            let stored = inner.stored(self.scope(), id).await?;
            let now = inner.now();
            let Some((state, health)) = next(&stored, now) else { return Ok(stored) };
            let changed = Stored { state, health, updated_at: now, ..stored };
            match inner.parts.outbox.put_endpoint(changed, now).await {
                Ok(written) => {
                    inner.take_over(&written);
                    return Ok(written);
                }
                Err(state::Error::EndpointConflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AdminError::Changed(id.clone()))
    }

    /// Sends a test message to an endpoint, whatever its state, along the path of every message
    /// (webhooks A5). Returns when the attempt is recorded.
    pub async fn test(&self, id: &EndpointId) -> Result<TestResult> {
        let inner = &self.inner;
        if inner.registry.find(id).is_none() {
            let stored = inner.stored(self.scope(), id).await?;
            inner.readable(&stored)?;
        }
        // Reserve the slot before anything is written, so that nothing is left behind if the sender does not
        // run.
        let place = timeout(TEST_MARGIN, inner.test_requests.reserve()).await;
        let place = place.ok().and_then(std::result::Result::ok).ok_or(AdminError::NotSending)?;
        let lease = inner.parts.settings.lease;
        let claim = inner.parts.outbox.test_endpoint(self.scope(), inner.parts.node, id, inner.now(), lease).await?;
        let claim = claim.ok_or_else(|| AdminError::NoSuchEndpoint(id.clone()))?;
        let (delivery, event) = (claim.delivery, claim.event);
        let (waiting, attempt) = oneshot::channel();
        place.send(TestRequest { claim, waiting });
        let attempt = timeout(lease + TEST_MARGIN, attempt).await;
        let attempt = attempt.ok().and_then(std::result::Result::ok).ok_or(AdminError::NotSending)?;
        Ok(TestResult { delivery, event, attempt })
    }

    /// Replays one delivery. With `force`, even if it has succeeded.
    pub async fn replay(&self, id: DeliveryId, force: bool) -> Result<ReplayOutcome> {
        Ok(self.inner.parts.outbox.replay(self.scope(), id, force, self.inner.now()).await?)
    }

    /// Begins a replay of many deliveries. An identical request returns the replay that is already running.
    pub async fn begin_replay(&self, wanted: ReplayRequest) -> Result<ReplayJob> {
        let _guard = self.inner.check_and_write.lock().await;
        let planned = self.inner.planned(self.tenant, wanted).await?;
        self.inner.begun(planned).await
    }

    /// Returns the stored replays, newest first.
    pub async fn replays(&self) -> Result<Vec<ReplayJob>> {
        Ok(self.inner.parts.outbox.replay_jobs(self.scope()).await?)
    }

    /// Stops a replay. Deliveries that it has queued stay queued.
    pub async fn cancel_replay(&self, id: ReplayId) -> Result<()> {
        let was_running = self.inner.parts.outbox.cancel_replay(self.scope(), id, self.inner.now()).await?;
        if was_running { Ok(()) } else { Err(AdminError::NoSuchReplay(id)) }
    }

    /// Expunges the client's data from the events of an upload (webhooks L7). Returns the number of
    /// events.
    pub async fn expunge(&self, upload: UploadId) -> Result<u64> {
        Ok(self.inner.parts.outbox.expunge(self.scope(), upload).await?)
    }
}

impl Inner {
    fn now(&self) -> Timestamp {
        self.parts.outbox.clock().now()
    }

    async fn stored(&self, scope: TenantScope, id: &EndpointId) -> Result<Stored> {
        let found = self.parts.outbox.endpoints(scope).await?.into_iter().find(|stored| stored.id == *id);
        found.ok_or_else(|| AdminError::NoSuchEndpoint(id.clone()))
    }

    /// Returns an endpoint unless it belongs to the configuration.
    async fn changeable(&self, scope: TenantScope, id: &EndpointId) -> Result<Stored> {
        let stored = self.stored(scope, id).await?;
        match stored.origin {
            Origin::Api => Ok(stored),
            Origin::Config => Err(AdminError::Configured(id.clone())),
        }
    }

    /// Checks a request for a replay and returns the replay to begin. Writes nothing yet.
    async fn planned(&self, tenant: TenantId, wanted: ReplayRequest) -> Result<PlannedReplay> {
        let (scope, now) = (TenantScope::One(tenant), self.now());
        if wanted.what == ReplaySelection::Everything && !wanted.force {
            return Err(AdminError::NeedsForce);
        }
        let has_range = wanted.before.is_some() || wanted.from > Timestamp::from_unix_ms(0);
        if wanted.what == ReplaySelection::Pending && has_range {
            return Err(AdminError::TakesNoRange);
        }
        let before = wanted.before.unwrap_or(now);
        if wanted.from >= before {
            return Err(AdminError::EmptyRange);
        }
        self.stored(scope, &wanted.endpoint).await?;
        let jobs = self.parts.outbox.replay_jobs(scope).await?;
        let mut running = jobs.into_iter().filter(|job| job.state == ReplayState::Running).collect::<Vec<_>>();
        let is_same = |job: &ReplayJob| {
            (&job.endpoint, job.what, job.from) == (&wanted.endpoint, wanted.what, wanted.from)
                && wanted.before.is_none_or(|before| job.before == before)
        };
        if let Some(at) = running.iter().position(is_same) {
            return Ok(PlannedReplay::Running(running.swap_remove(at)));
        }
        if running.len() >= MAX_RUNNING_REPLAYS {
            return Err(AdminError::TooManyReplays);
        }
        Ok(PlannedReplay::New(ReplayJob {
            id: ReplayId::new(now, rand::random()),
            tenant,
            endpoint: wanted.endpoint,
            what: wanted.what,
            from: wanted.from,
            before,
            state: ReplayState::Running,
            cursor: EventPosition(0),
            queued: 0,
            created_at: now,
            finished_at: None,
        }))
    }

    async fn begun(&self, planned: PlannedReplay) -> Result<ReplayJob> {
        match planned {
            PlannedReplay::Running(job) => Ok(job),
            PlannedReplay::New(job) => {
                let job = self.parts.outbox.begin_replay(job).await?;
                if job.what == ReplaySelection::Pending {
                    self.probe(&job.endpoint).await?;
                }
                self.replays.notify_one();
                Ok(job)
            }
        }
    }

    /// Lets any node probe an endpoint whose breaker is open at once, instead of after its pause.
    async fn probe(&self, id: &EndpointId) -> Result<()> {
        let now = self.now();
        let health = vec![(id.clone(), HealthChange::probe(now))];
        self.parts.outbox.settle(SettlementBatch { settlements: Vec::new(), health }, now).await?;
        self.registry.probe(id, now);
        Ok(())
    }

    async fn checked(&self, terms: EndpointTerms) -> Result<EndpointTerms> {
        let terms = checked_terms(terms, Origin::Api, &self.parts.rules, &self.parts.settings)?;
        if self.resolves_to_self(&terms.url).await {
            return Err(InvalidEndpoint::Url(RejectedUrl::Own).into());
        }
        Ok(terms)
    }

    /// Reports whether the name in a URL resolves to this server. Every call checks this again; here the
    /// check only saves the operator from an endpoint that would never be called.
    async fn resolves_to_self(&self, url: &str) -> bool {
        let rules = &self.parts.rules;
        let Ok(url) = Url::parse(url) else { return false };
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { return false };
        if literal(&url).is_some() || !rules.is_own_port(port) {
            return false;
        }
        let found = timeout(LOOKUP_TIMEOUT, (self.lookup)(host.to_owned())).await;
        let is_own = |address| {
            let place = SocketAddr::new(address, port);
            rules.check_address(place, url.scheme() == "https", Origin::Api) == Err(RejectedUrl::Own)
        };
        found.is_ok_and(|found| found.is_ok_and(|addresses| addresses.into_iter().any(is_own)))
    }

    fn secrets(&self, stored: &Stored) -> std::result::Result<EndpointSecrets, UnreadableSecrets> {
        match stored.origin {
            Origin::Api => self.parts.vault.open(&stored.id, &stored.sealed),
            // Secrets of endpoints of the configuration exist only in the registry.
            Origin::Config => {
                let entry = self.registry.find(&stored.id);
                entry.map(|entry| entry.endpoint().secrets.clone()).ok_or(UnreadableSecrets::Damaged)
            }
        }
    }

    fn readable(&self, stored: &Stored) -> Result<EndpointSecrets> {
        self.secrets(stored).map_err(|why| AdminError::Unreadable(stored.id.clone(), why))
    }

    /// Rejects a key that one of `others` has (webhooks H9), as far as their secrets can be read. The error
    /// does not name the endpoint.
    fn check_unshared(&self, key: Option<&SigningKey>, others: &[Stored]) -> Result<()> {
        let Some(key) = key else { return Ok(()) };
        let now = self.now();
        let secrets = others.iter().filter_map(|stored| self.secrets(stored).ok());
        let is_taken = secrets.fold(false, |taken, secrets| taken | secrets.keys.holds(key, now));
        if is_taken { Err(AdminError::SecretTaken) } else { Ok(()) }
    }

    /// Writes a new endpoint with its secrets and hands it to the sender.
    async fn add(&self, stored: Stored, secrets: EndpointSecrets) -> Result<Stored> {
        let (now, most) = (self.now(), self.parts.settings.max_endpoints);
        let _writing = self.registry.write().await;
        let sealed = self.parts.vault.seal(&stored.id, &secrets, now);
        let limit = u32::try_from(most).unwrap_or(u32::MAX);
        let written = match self.parts.outbox.add_endpoint(Stored { sealed, ..stored }, limit, now).await {
            Ok(written) => written.ok_or(AdminError::TooManyEndpoints(most))?,
            Err(state::Error::EndpointConflict(id)) => return Err(AdminError::Exists(id)),
            Err(error) => return Err(error.into()),
        };
        self.take_over(&written);
        Ok(written)
    }

    /// Writes a changed endpoint with its secrets and hands it to the sender.
    async fn write(&self, stored: Stored, secrets: EndpointSecrets) -> Result<Stored> {
        let now = self.now();
        let _writing = self.registry.write().await;
        let sealed = self.parts.vault.seal(&stored.id, &secrets, now);
        let written = self.parts.outbox.put_endpoint(Stored { sealed, ..stored }, now).await;
        let written = written.map_err(|error| match error {
            state::Error::EndpointConflict(id) => AdminError::Changed(id),
            error => error.into(),
        })?;
        self.take_over(&written);
        Ok(written)
    }

    fn take_over(&self, written: &Stored) {
        match self.secrets(written) {
            Ok(secrets) => {
                if let Ok(endpoint) = SendableEndpoint::new(written.clone(), secrets) {
                    self.registry.put(endpoint);
                }
            }
            Err(why) => tracing::error!(endpoint = %written.id, "no deliveries are sent: the secrets of the endpoint \
                                                                 cannot be read: {why}"),
        }
    }
}

fn generated_id(now: Timestamp) -> EndpointId {
    let unique = DeliveryId::new(now, rand::random()).to_string().replace('-', "");
    EndpointId::new(format!("ep_{unique}")).expect("hexadecimal digits make a name")
}

/// Returns the verification keys for the current keys of these kinds.
fn verification_keys(keys: &SigningKeys, kinds: &[KeyKind], now: Timestamp) -> VerificationKeys {
    let current = kinds.iter().filter_map(|kind| keys.current(*kind, now));
    current.map(verification_key).fold(VerificationKeys::default(), |verification_keys, key| VerificationKeys {
        secret: verification_keys.secret.or(key.secret),
        public_key: verification_keys.public_key.or(key.public_key),
    })
}

fn verification_key(key: &SigningKey) -> VerificationKeys {
    let text = Some(key.for_receiver());
    match key.kind() {
        KeyKind::Hmac => VerificationKeys { secret: text, public_key: None },
        KeyKind::Ed25519 => VerificationKeys { secret: None, public_key: text },
    }
}

fn key_overview(held: &KeyEntry) -> KeyOverview {
    let kind = held.key.kind();
    KeyOverview {
        kind,
        created_at: held.created_at,
        expires_at: held.expires_at,
        public_key: (kind == KeyKind::Ed25519).then(|| held.key.for_receiver()),
    }
}
