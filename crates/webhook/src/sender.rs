//! The sender as a whole: opened on an outbox, shared with its observers and its administration, and run
//! until its stop signal.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::admin::Administration;
use crate::endpoints::endpoint::SendableEndpoint;
use crate::endpoints::vault::Vault;
use crate::metrics::WebhookMetrics;
use crate::parts::{SenderCount, SenderParts};
use crate::sending::courier::Courier;
use crate::sending::dispatcher::{Dispatcher, TestRequest};
use crate::sending::egress::Egress;
use crate::sending::follower::EndpointFollower;
use crate::sending::liveness::Liveness;
use crate::sending::maintenance::Maintenance;
use crate::sending::recorder::{FINAL_WRITE_TIMEOUT, Recorder, RecorderState};
use crate::sending::registry::EndpointRegistry;
use crate::settings::{InvalidWebhookSettings, WebhookSettings};
use domain::endpoint::{Endpoint as Stored, EndpointId, Origin};
use domain::id::InstanceId;
use domain::principal::TenantScope;
use keyring::StageTokens;
use outbound::resolver::{Lookup, system_lookup};
use state::clock::Clock;
use state::{ConfigurationStanding, EndpointConfiguration, Endpoints, Outbox};

/// Maximum number of tests that wait to be sent.
const WAITING_TESTS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    #[error(transparent)]
    Settings(#[from] InvalidWebhookSettings),
    #[error("two endpoints are named {0}")]
    TwoOfOneName(EndpointId),
    #[error("an endpoint in the configuration and one created through the API are both named {0}")]
    NameTaken(EndpointId),
    #[error("could not set up the HTTP client for webhooks")]
    Client(#[source] reqwest::Error),
    #[error("could not set up TLS for webhooks: {0}")]
    Tls(String),
    #[error("could not open the outbox")]
    Outbox(#[from] state::Error),
}

/// The work of a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SenderWork {
    Sends,
    /// Other nodes send. This one only knows the endpoints, for those who query them, and writes nothing.
    Reads,
}

/// Sends deliveries until its stop signal.
pub struct Sender {
    work: SenderWork,
    node: InstanceId,
    outbox: Arc<dyn Outbox>,
    registry: Arc<EndpointRegistry>,
    follower: Arc<EndpointFollower>,
    senders: SenderCount,
    slots: Arc<Semaphore>,
    settings: WebhookSettings,
    clock: Clock,
    egress: Egress,
    stage_tokens: Option<StageTokens>,
    metrics: WebhookMetrics,
    liveness: Liveness,
    admin: Administration,
    tests: mpsc::Receiver<TestRequest>,
    replays: Arc<Notify>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.registry.all().iter().map(|entry| entry.endpoint()).collect();
        f.debug_struct("Sender")
            .field("endpoints", &endpoints)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Sender {
    /// Writes the endpoints of the configuration to the outbox, and loads those created through the API.
    pub async fn open(parts: SenderParts, configured: Vec<SendableEndpoint>) -> Result<Self, SenderError> {
        Self::open_with(parts, configured, system_lookup()).await
    }

    /// Opens a sender that sends nothing and writes nothing, for a node that serves only reads.
    pub async fn open_to_read(parts: SenderParts, configured: Vec<SendableEndpoint>) -> Result<Self, SenderError> {
        Self::open_as(SenderWork::Reads, parts, configured, system_lookup()).await
    }

    pub(super) async fn open_with(
        parts: SenderParts,
        configured: Vec<SendableEndpoint>,
        lookup: Lookup,
    ) -> Result<Self, SenderError> {
        Self::open_as(SenderWork::Sends, parts, configured, lookup).await
    }

    async fn open_as(
        work: SenderWork,
        parts: SenderParts,
        configured: Vec<SendableEndpoint>,
        lookup: Lookup,
    ) -> Result<Self, SenderError> {
        let SenderParts { node, outbox, rules, vault, settings, senders } = parts;
        settings.check()?;
        let clock = outbox.clock();
        for (index, endpoint) in configured.iter().enumerate() {
            if configured[..index].iter().any(|other| other.id() == endpoint.id()) {
                return Err(SenderError::TwoOfOneName(endpoint.id().clone()));
            }
        }
        let egress =
            Egress::new(settings.clone(), Arc::clone(&rules), Arc::clone(&lookup)).map_err(SenderError::Client)?;
        let trusts_the_machine = |it: &SendableEndpoint| it.is_https() && it.terms().ca_certificates.is_none();
        if configured.iter().any(trusts_the_machine) {
            egress.prepare_tls(Origin::Config).map_err(|why| SenderError::Tls(why.clone()))?;
        }
        let endpoints = match work {
            SenderWork::Sends => {
                open_endpoints(node, &*outbox, &vault, (settings.config_epoch, &configured), &clock).await?
            }
            SenderWork::Reads => Vec::new(),
        };
        let registry = Arc::new(EndpointRegistry::new(endpoints));
        let follower = Arc::new(EndpointFollower {
            outbox: Arc::clone(&outbox),
            registry: Arc::clone(&registry),
            vault: vault.clone(),
            configured,
        });
        if work == SenderWork::Reads {
            follower.read_endpoints().await?;
        }
        let (test_requests, tests) = mpsc::channel(WAITING_TESTS);
        let liveness = match work {
            SenderWork::Sends => Liveness::new(settings.max_due_age),
            SenderWork::Reads => Liveness::of_other_nodes(),
        };
        let replays = Arc::new(Notify::new());
        let admin = Administration::new(
            SenderParts {
                node,
                outbox: Arc::clone(&outbox),
                rules,
                vault,
                settings: settings.clone(),
                senders: Arc::clone(&senders),
            },
            Arc::clone(&registry),
            lookup,
            test_requests,
            Arc::clone(&replays),
        );
        let slots = Arc::new(Semaphore::new(settings.max_in_flight.min(Semaphore::MAX_PERMITS)));
        let (metrics, stage_tokens) = (WebhookMetrics::default(), None);
        Ok(Self {
            work,
            node,
            outbox,
            registry,
            follower,
            senders,
            slots,
            settings,
            clock,
            egress,
            stage_tokens,
            metrics,
            liveness,
            admin,
            tests,
            replays,
        })
    }

    /// Adds a stage token to each message about an upload, with which the receiver can report stages of that
    /// upload.
    #[must_use]
    pub fn with_stage_tokens(self, tokens: StageTokens) -> Self {
        Self { stage_tokens: Some(tokens), ..self }
    }

    pub fn metrics(&self) -> &WebhookMetrics {
        &self.metrics
    }

    /// Returns the administration, which changes endpoints and replays deliveries.
    pub fn admin(&self) -> &Administration {
        &self.admin
    }

    /// Returns the names of all endpoints, with the state of those that are not enabled.
    pub fn endpoint_names(&self) -> Vec<String> {
        let entries = self.registry.all();
        let name = |endpoint: &Stored| match endpoint.state.is_enabled() {
            true => endpoint.id.to_string(),
            false => format!("{} ({})", endpoint.id, endpoint.state.name()),
        };
        entries.iter().map(|entry| name(entry.endpoint().stored())).collect()
    }

    /// Returns a flag that is set while at least one enabled endpoint subscribes to progress.
    pub fn progress_wanted(&self) -> Arc<AtomicBool> {
        self.registry.progress_wanted()
    }

    /// Returns the health check of the sender.
    pub fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// Sends until `stop`. Then claims nothing more, gives deliveries in flight the drain timeout, and
    /// returns once every result is written.
    pub async fn run(self, stop: CancellationToken) {
        if self.work == SenderWork::Reads {
            return self.follower.run(stop).await;
        }
        let (results, incoming) = mpsc::channel(self.settings.max_in_flight.min(Semaphore::MAX_PERMITS));
        let (state, recording) = watch::channel(RecorderState::Works);
        let abort = CancellationToken::new();
        let maintenance = Maintenance {
            node: self.node,
            outbox: Arc::clone(&self.outbox),
            registry: Arc::clone(&self.registry),
            settings: self.settings.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            liveness: self.liveness.clone(),
            replays: self.replays,
        };
        let recorder = Recorder {
            outbox: Arc::clone(&self.outbox),
            registry: Arc::clone(&self.registry),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            state,
            closing: abort.clone(),
            final_write_timeout: FINAL_WRITE_TIMEOUT,
        };
        let dispatcher = Dispatcher {
            node: self.node,
            dispatch: self.outbox,
            registry: self.registry,
            follower: Arc::clone(&self.follower),
            senders: self.senders,
            slots: self.slots,
            recording,
            tests: self.tests,
            liveness: self.liveness,
            courier: Arc::new(Courier {
                egress: self.egress,
                settings: self.settings,
                clock: self.clock,
                stage_tokens: self.stage_tokens,
                metrics: self.metrics,
                abort,
                results,
            }),
        };
        // The recorder ends when the dispatcher and its tasks have dropped the last sender of results.
        tokio::join!(
            dispatcher.run(stop.clone()),
            recorder.run(incoming),
            maintenance.run(stop.clone()),
            self.follower.run(stop)
        );
    }
}

/// Writes the endpoints of the configuration, and reads all endpoints.
async fn open_endpoints(
    node: InstanceId,
    outbox: &dyn Endpoints,
    vault: &Vault,
    (epoch, configured): (u64, &[SendableEndpoint]),
    clock: &Clock,
) -> Result<Vec<SendableEndpoint>, SenderError> {
    for stored in outbox.endpoints(TenantScope::All).await? {
        if stored.origin == Origin::Api && configured.iter().any(|endpoint| *endpoint.id() == stored.id) {
            return Err(SenderError::NameTaken(stored.id));
        }
    }
    let named = configured.iter().map(|endpoint| endpoint.stored().clone()).collect();
    let configuration = EndpointConfiguration { epoch, endpoints: named };
    match outbox.configure(node, configuration, clock.now()).await? {
        ConfigurationStanding::Applied => {}
        ConfigurationStanding::Differs => tracing::warn!(
            epoch,
            "another node has different webhook endpoints in its configuration; those of this node apply, because it \
             started last. Increase webhooks.config_epoch in the configuration that is to apply"
        ),
        ConfigurationStanding::Outdated { newest } => tracing::warn!(
            epoch,
            newest,
            "the webhook endpoints of this configuration do not apply: a node with a higher webhooks.config_epoch has \
             started"
        ),
    }
    let mut endpoints = Vec::new();
    for stored in outbox.endpoints(TenantScope::All).await? {
        let opened = match configured.iter().find(|endpoint| *endpoint.id() == stored.id) {
            Some(endpoint) => endpoint.with(stored).ok(),
            // Sent by the nodes whose configuration has its secrets.
            None if stored.origin == Origin::Config => None,
            None => open_sealed(outbox, vault, stored, clock).await?,
        };
        endpoints.extend(opened);
    }
    Ok(endpoints)
}

/// Opens an endpoint created through the API, and seals its secrets under the newest key if they are not yet.
/// Returns `None` if its secrets cannot be read: its deliveries then wait until they can be, or expire.
async fn open_sealed(
    outbox: &dyn Endpoints,
    vault: &Vault,
    stored: Stored,
    clock: &Clock,
) -> Result<Option<SendableEndpoint>, SenderError> {
    let id = stored.id.clone();
    let secrets = match vault.open(&id, &stored.sealed) {
        Ok(secrets) => secrets,
        Err(why) => {
            tracing::error!(endpoint = %id, "no deliveries are sent to an endpoint whose secrets cannot be read: {why}");
            return Ok(None);
        }
    };
    let stored = if vault.is_current(&stored.sealed) {
        stored
    } else {
        let sealed = vault.seal(&id, &secrets, clock.now());
        tracing::info!(endpoint = %id, "encrypted the secrets of an endpoint with the newest server key");
        outbox.put_endpoint(Stored { sealed, ..stored }, clock.now()).await?
    };
    Ok(SendableEndpoint::new(stored, secrets).ok())
}
