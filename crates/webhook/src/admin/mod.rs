//! What operators do with endpoints and deliveries, as values: no HTTP, no wire format.
//!
//! Every change is checked, written under the version law, and taken over by the running sender, in that
//! order: from the next attempt on it counts, also for deliveries that were queued before it (webhooks.md
//! A4). Endpoints of the configuration can be paused, resumed and tried out; all else about them is said in
//! the configuration.

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
use domain::id::{DeliveryId, EventId, ReplayId, UploadId};
use domain::log::EventPosition;
use domain::principal::{TenantId, TenantScope};
use domain::replay::{ReplayJob, ReplayState};
use domain::time::Timestamp;
use outbound::address::{RejectedUrl, literal};
use outbound::keys::{InvalidKey, KeyEntry, KeyKind, SigningKey, SigningKeys, kinds_of};
use outbound::resolver::Lookup;

/// How often a change that depends on nothing it read is tried again when others are faster.
const TRIES: u32 = 10;

/// How many replays may be under way or wait for their turn.
const MAX_RUNNING_REPLAYS: usize = 20;

/// Beyond the time an attempt may take: until it is begun, and until it is recorded.
const TEST_MARGIN: Duration = Duration::from_secs(10);

/// How long the name of a new endpoint may take to be looked up; one that takes longer is taken as it is.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why something was not done.
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

/// What to make an endpoint of.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// One is made up when there is none.
    pub id: Option<EndpointId>,
    pub terms: EndpointTerms,
    /// Names and values, sent with every message.
    pub headers: Vec<(String, String)>,
    /// A key of the operator's own; whatever else is needed is made.
    pub key: Option<SigningKey>,
}

/// A change of an endpoint, by someone who has read it.
#[derive(Debug, Clone)]
pub struct EndpointChange {
    /// The version that was read.
    pub version: u64,
    pub terms: EndpointTerms,
    /// `None`: as they are.
    pub headers: Option<Vec<(String, String)>>,
}

/// A new key for an endpoint.
#[derive(Debug, Clone)]
pub struct KeyRotation {
    /// One is made when there is none.
    pub key: Option<SigningKey>,
    /// Which kind to make; without it, that of the endpoint's signatures, the shared secret first.
    pub kind: Option<KeyKind>,
    /// How long the old key goes on signing, too.
    pub overlap: Duration,
}

/// What the receiver of an endpoint needs to verify its messages. Shown once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct VerificationKeys {
    /// `whsec_…`
    pub secret: Option<String>,
    /// `whpk_…`
    pub public_key: Option<String>,
}

/// Does not print the secret.
impl fmt::Debug for VerificationKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.secret.as_ref().map(|_| "redacted");
        f.debug_struct("VerificationKeys").field("secret", &secret).field("public_key", &self.public_key).finish()
    }
}

/// An endpoint and how it is doing.
#[derive(Debug, Clone)]
pub struct EndpointOverview {
    /// With its health of this moment.
    pub endpoint: Stored,
    pub backlog: Backlog,
    /// Those that sign now, newest first. Empty when its secrets cannot be read.
    pub keys: Vec<KeyOverview>,
    /// The names of its headers; values are secret.
    pub headers: Vec<String>,
}

/// What may be told of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOverview {
    pub kind: KeyKind,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub public_key: Option<String>,
}

/// What came of trying an endpoint out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestResult {
    pub delivery: DeliveryId,
    pub event: EventId,
    pub attempt: Attempt,
}

/// Which deliveries to send again.
#[derive(Debug, Clone)]
pub struct ReplayRequest {
    pub endpoint: EndpointId,
    pub what: ReplaySelection,
    pub from: Timestamp,
    /// `None`: now.
    pub before: Option<Timestamp>,
    /// Also what has succeeded, if that is asked for.
    pub force: bool,
}

/// How an endpoint that was stopped goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resumption {
    /// What has waited for it is cancelled, for whoever wants only what comes. One that is not stopped keeps
    /// what it has, so that asking twice drops nothing that came after.
    pub drops_backlog: bool,
    /// What it has missed since then besides, such as events of the time it was not there, is queued too.
    pub missed_since: Option<Timestamp>,
}

/// A replay that may be.
enum PlannedReplay {
    /// One that was asked for before and runs.
    Running(ReplayJob),
    New(ReplayJob),
}

impl PlannedReplay {
    /// The same from the beginning, of everything until now.
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

/// The administration of every tenant's endpoints. Clones speak for the same sender.
#[derive(Clone)]
pub struct Administration(Arc<Inner>);

/// Changes the endpoints of one tenant and asks for deliveries to them
/// again. What is another tenant's is not there.
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
    /// Held by what depends on what else there is, from looking until writing.
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

    /// Acts for one tenant.
    pub fn of(&self, tenant: TenantId) -> Admin {
        Admin { inner: Arc::clone(&self.0), tenant }
    }
}

impl Admin {
    fn scope(&self) -> TenantScope {
        TenantScope::One(self.tenant)
    }

    /// Whether an endpoint made by API may have this URL, as far as the URL tells.
    pub fn check_url(&self, url: &str) -> std::result::Result<(), RejectedUrl> {
        self.inner.parts.rules.check_url(url, Origin::Api).map(drop)
    }

    /// The endpoints of the tenant, by name.
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
        let health = self.inner.registry.find(&stored.id).map_or(stored.health, |entry| entry.health());
        let secrets = self.inner.secrets(&stored).unwrap_or_default();
        Ok(EndpointOverview {
            endpoint: Stored { health, ..stored },
            backlog,
            keys: secrets.keys.live(self.inner.now()).map(key_overview).collect(),
            headers: secrets.headers.keys().map(HeaderName::to_string).collect(),
        })
    }

    /// Makes an endpoint. What its receiver needs is told here and never again.
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
        let by_api = endpoints.iter().filter(|stored| stored.origin == Origin::Api).count();
        if by_api >= inner.parts.settings.max_endpoints {
            return Err(AdminError::TooManyEndpoints(by_api));
        }
        inner.check_unshared(new.key.as_ref(), &endpoints)?;
        let secrets =
            EndpointSecrets { keys: SigningKeys::permanent(new.key, now).completed(terms.signing, now), headers };
        let stored = Stored::new(self.tenant, id, Origin::Api, terms, now);
        let verification_keys = verification_keys(&secrets.keys, kinds_of(stored.terms.signing), now);
        let written = inner.write(stored, secrets).await.map_err(|error| match error {
            AdminError::Changed(id) => AdminError::Exists(id),
            error => error,
        })?;
        Ok((written, verification_keys))
    }

    /// Changes what an endpoint was told. Keys that it had none of and needs now are made; what its receiver
    /// needs of those is told here and never again.
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

    /// Removes an endpoint, or what is left of one that the configuration no longer names;
    /// what was not delivered to it is cancelled.
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

    /// Gives an endpoint a new key (webhooks H10). What its receiver needs is told here and never again.
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

    /// What the receiver of an endpoint verifies `v1a` signatures with.
    pub async fn public_key(&self, id: &EndpointId) -> Result<Option<String>> {
        let stored = self.inner.stored(self.scope(), id).await?;
        let secrets = self.inner.readable(&stored)?;
        Ok(secrets.keys.current(KeyKind::Ed25519, self.inner.now()).map(SigningKey::for_receiver))
    }

    /// Stops an endpoint; its deliveries wait. One that is stopped stays so for the reason it has.
    pub async fn pause(&self, id: &EndpointId) -> Result<Stored> {
        let paused = |stored: &Stored, now| match stored.state {
            EndpointState::Enabled => Some((EndpointState::Paused { since: now }, stored.health)),
            EndpointState::Paused { .. } | EndpointState::Disabled { .. } => None,
        };
        self.set_state(id, paused).await
    }

    /// Lets an endpoint go on. Gives the replay of what it has missed, if that was asked for.
    pub async fn resume(&self, id: &EndpointId, how: Resumption) -> Result<(Stored, Option<ReplayJob>)> {
        let inner = &self.inner;
        let _guard = inner.check_and_write.lock().await;
        let was_stopped = !inner.stored(self.scope(), id).await?.state.is_enabled();
        // What can be refused comes first: then nothing has changed.
        let mut planned = match how.missed_since {
            Some(from) => {
                let what = ReplaySelection::Missed;
                let missed = ReplayRequest { endpoint: id.clone(), what, from, before: None, force: false };
                Some(inner.planned(self.tenant, missed).await?)
            }
            None => None,
        };
        // It is cancelled before the replay begins, or what that queues would be cancelled with it: also what
        // one has queued that runs already. The range goes on to what was cancelled last.
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

    /// Pauses every endpoint that is not stopped. Says how many those were.
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

    /// Resumes every endpoint that an operator paused. Says how many those were.
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

    /// Writes another state, unless the endpoint is fine as it is.
    async fn set_state(
        &self,
        id: &EndpointId,
        next: impl Fn(&Stored, Timestamp) -> Option<(EndpointState, Health)>,
    ) -> Result<Stored> {
        let inner = &self.inner;
        for _ in 0..TRIES {
            let _writing = inner.registry.write().await;
            let stored = inner.stored(self.scope(), id).await?;
            let health = inner.registry.find(id).map_or(stored.health, |entry| entry.health());
            let (stored, now) = (Stored { health, ..stored }, inner.now());
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

    /// Sends an endpoint a test message, whatever its state, the way every message goes (webhooks A5).
    /// Comes back when the attempt is recorded.
    pub async fn test(&self, id: &EndpointId) -> Result<TestResult> {
        let inner = &self.inner;
        if inner.registry.find(id).is_none() {
            let stored = inner.stored(self.scope(), id).await?;
            inner.readable(&stored)?;
        }
        // Waited for before anything is written, so that nothing is left behind when nobody sends.
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

    /// Sends one delivery again. `force`: even if it has succeeded.
    pub async fn replay(&self, id: DeliveryId, force: bool) -> Result<ReplayOutcome> {
        Ok(self.inner.parts.outbox.replay(self.scope(), id, force, self.inner.now()).await?)
    }

    /// Begins to send many deliveries again. Asking twice for the same while it runs gives the same replay.
    pub async fn begin_replay(&self, wanted: ReplayRequest) -> Result<ReplayJob> {
        let _guard = self.inner.check_and_write.lock().await;
        let planned = self.inner.planned(self.tenant, wanted).await?;
        self.inner.begun(planned).await
    }

    /// The replays that are kept, newest first.
    pub async fn replays(&self) -> Result<Vec<ReplayJob>> {
        Ok(self.inner.parts.outbox.replay_jobs(self.scope()).await?)
    }

    /// Stops a replay where it is; what it has queued stays queued.
    pub async fn cancel_replay(&self, id: ReplayId) -> Result<()> {
        let was_running = self.inner.parts.outbox.cancel_replay(self.scope(), id, self.inner.now()).await?;
        if was_running { Ok(()) } else { Err(AdminError::NoSuchReplay(id)) }
    }

    /// Takes what an upload's client said out of its events (webhooks L7). Says how many events that were.
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

    /// One that is not of the configuration.
    async fn changeable(&self, scope: TenantScope, id: &EndpointId) -> Result<Stored> {
        let stored = self.stored(scope, id).await?;
        match stored.origin {
            Origin::Api => Ok(stored),
            Origin::Config => Err(AdminError::Configured(id.clone())),
        }
    }

    /// The replay that was asked for, if it may be. Nothing is written yet.
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
                    self.registry.probe(&job.endpoint, self.now());
                }
                self.replays.notify_one();
                Ok(job)
            }
        }
    }

    async fn checked(&self, terms: EndpointTerms) -> Result<EndpointTerms> {
        let terms = checked_terms(terms, Origin::Api, &self.parts.rules, &self.parts.settings)?;
        if self.resolves_to_self(&terms.url).await {
            return Err(InvalidEndpoint::Url(RejectedUrl::Own).into());
        }
        Ok(terms)
    }

    /// Whether a URL names this server by a name that somebody gave it. That is judged again at every call;
    /// here it only spares its operator an endpoint that will never be called.
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
            // Those of the configuration are known here and nowhere else.
            Origin::Config => {
                let entry = self.registry.find(&stored.id);
                entry.map(|entry| entry.endpoint().secrets.clone()).ok_or(UnreadableSecrets::Damaged)
            }
        }
    }

    fn readable(&self, stored: &Stored) -> Result<EndpointSecrets> {
        self.secrets(stored).map_err(|why| AdminError::Unreadable(stored.id.clone(), why))
    }

    /// Refuses a key that one of these has (webhooks H9), as far as their secrets can be read. Says
    /// nothing of whose it is.
    fn check_unshared(&self, key: Option<&SigningKey>, others: &[Stored]) -> Result<()> {
        let Some(key) = key else { return Ok(()) };
        let now = self.now();
        let secrets = others.iter().filter_map(|stored| self.secrets(stored).ok());
        let is_taken = secrets.fold(false, |taken, secrets| taken | secrets.keys.holds(key, now));
        if is_taken { Err(AdminError::SecretTaken) } else { Ok(()) }
    }

    /// Writes an endpoint with its secrets and has the sender take it over.
    async fn write(&self, stored: Stored, secrets: EndpointSecrets) -> Result<Stored> {
        let now = self.now();
        let _writing = self.registry.write().await;
        let health = self.registry.find(&stored.id).map_or(stored.health, |entry| entry.health());
        let sealed = self.parts.vault.seal(&stored.id, &secrets, now);
        let written = self.parts.outbox.put_endpoint(Stored { sealed, health, ..stored }, now).await;
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

/// What the receiver needs of the current keys of these kinds.
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
