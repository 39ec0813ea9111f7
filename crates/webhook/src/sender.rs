//! The sender as a whole: opened on an outbox, handed out to those who watch
//! and change it, and run until told to stop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::admin::Administration;
use crate::endpoints::endpoint::Endpoint;
use crate::endpoints::vault::Vault;
use crate::metrics::Metrics;
use crate::parts::Parts;
use crate::sending::courier::Courier;
use crate::sending::dispatcher::{Dispatcher, Test};
use crate::sending::egress::Egress;
use crate::sending::lanes::Lanes;
use crate::sending::liveness::Liveness;
use crate::sending::record::{LAST_TRIES, Recorder, Recording};
use crate::sending::upkeep::Upkeep;
use crate::settings::{InvalidSettings, Settings};
use domain::endpoint::{Endpoint as Stored, EndpointId, Origin};
use domain::id::InstanceId;
use domain::principal::TenantScope;
use keyring::StageTokens;
use outbound::gate::{Lookup, system_lookup};
use state::clock::Clock;
use state::{Endpoints, Outbox};

/// Tests that may wait to be sent.
const WAITING_TESTS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    #[error("two endpoints are called {0}")]
    TwoOfOneName(EndpointId),
    #[error("an endpoint of the configuration is called {0}, and one made by API is too")]
    NameTaken(EndpointId),
    #[error("could not set up the client for webhooks")]
    Client(#[source] reqwest::Error),
    #[error("could not set up TLS for webhooks: {0}")]
    Tls(String),
    #[error("could not open the outbox")]
    Outbox(#[from] state::Error),
}

/// Sends deliveries until told to stop.
pub struct Sender {
    node: InstanceId,
    outbox: Arc<dyn Outbox>,
    lanes: Arc<Lanes>,
    slots: Arc<Semaphore>,
    settings: Settings,
    clock: Clock,
    egress: Egress,
    stage_tokens: Option<StageTokens>,
    metrics: Metrics,
    liveness: Liveness,
    admin: Administration,
    tests: mpsc::Receiver<Test>,
    replays: Arc<Notify>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.lanes.all().iter().map(|lane| lane.endpoint()).collect();
        f.debug_struct("Sender")
            .field("endpoints", &endpoints)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Sender {
    /// Tells the outbox of the endpoints of the configuration, and takes over those that were made by API.
    pub async fn open(parts: Parts, configured: Vec<Endpoint>) -> Result<Self, Error> {
        Self::open_with(parts, configured, system_lookup()).await
    }

    pub(super) async fn open_with(parts: Parts, configured: Vec<Endpoint>, lookup: Lookup) -> Result<Self, Error> {
        let Parts { node, outbox, rules, vault, settings } = parts;
        settings.check()?;
        let clock = outbox.clock();
        for (index, endpoint) in configured.iter().enumerate() {
            if configured[..index].iter().any(|other| other.id() == endpoint.id()) {
                return Err(Error::TwoOfOneName(endpoint.id().clone()));
            }
        }
        let egress = Egress::new(settings.clone(), Arc::clone(&rules), Arc::clone(&lookup)).map_err(Error::Client)?;
        let trusts_the_machine = |it: &Endpoint| it.is_https() && it.terms().ca_certificates.is_none();
        if configured.iter().any(trusts_the_machine) {
            egress.prepare_tls(Origin::Config).map_err(|why| Error::Tls(why.clone()))?;
        }
        let endpoints = open_endpoints(node, &*outbox, &vault, configured, &clock).await?;
        let lanes = Arc::new(Lanes::new(endpoints));
        let (trials, tests) = mpsc::channel(WAITING_TESTS);
        let (liveness, replays) = (Liveness::new(settings.max_due_age), Arc::new(Notify::new()));
        let admin = Administration::new(
            Parts { node, outbox: Arc::clone(&outbox), rules, vault, settings: settings.clone() },
            Arc::clone(&lanes),
            lookup,
            trials,
            Arc::clone(&replays),
        );
        let slots = Arc::new(Semaphore::new(settings.max_in_flight.min(Semaphore::MAX_PERMITS)));
        let (metrics, stage_tokens) = (Metrics::default(), None);
        Ok(Self {
            node,
            outbox,
            lanes,
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

    /// Sends each receiver, with news of an upload, what it needs to report stages of that.
    #[must_use]
    pub fn with_stage_tokens(self, tokens: StageTokens) -> Self {
        Self { stage_tokens: Some(tokens), ..self }
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// For those who change endpoints and ask for deliveries again.
    pub fn admin(&self) -> &Administration {
        &self.admin
    }

    /// The names of all endpoints, with the state of those that nothing is sent to.
    pub fn endpoint_names(&self) -> Vec<String> {
        let lanes = self.lanes.all();
        let name = |endpoint: &Stored| match endpoint.state.is_enabled() {
            true => endpoint.id.to_string(),
            false => format!("{} ({})", endpoint.id, endpoint.state.name()),
        };
        lanes.iter().map(|lane| name(lane.endpoint().stored())).collect()
    }

    /// Whether anybody wants to hear of progress, at any moment.
    pub fn progress_wanted(&self) -> Arc<AtomicBool> {
        self.lanes.progress_wanted()
    }

    /// For those who want to know whether it is well.
    pub fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// Sends until `stop`. Then claims nothing more, gives what is in flight the drain timeout,
    /// and returns once every result is written.
    pub async fn run(self, stop: CancellationToken) {
        let (results, incoming) = mpsc::channel(self.settings.max_in_flight.min(Semaphore::MAX_PERMITS));
        let (state, recording) = watch::channel(Recording::Works);
        let abort = CancellationToken::new();
        let upkeep = Upkeep {
            outbox: Arc::clone(&self.outbox),
            lanes: Arc::clone(&self.lanes),
            settings: self.settings.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            liveness: self.liveness.clone(),
            replays: self.replays,
        };
        let recorder = Recorder {
            outbox: Arc::clone(&self.outbox),
            lanes: Arc::clone(&self.lanes),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            state,
            closing: abort.clone(),
            last_tries: LAST_TRIES,
        };
        let dispatcher = Dispatcher {
            node: self.node,
            dispatch: self.outbox,
            lanes: self.lanes,
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
        tokio::join!(dispatcher.run(stop.clone()), recorder.run(incoming), upkeep.run(stop));
    }
}

/// Writes the endpoints of the configuration, and reads all there are.
async fn open_endpoints(
    node: InstanceId,
    outbox: &dyn Endpoints,
    vault: &Vault,
    configured: Vec<Endpoint>,
    clock: &Clock,
) -> Result<Vec<Endpoint>, Error> {
    for stored in outbox.endpoints(TenantScope::All).await? {
        if stored.origin == Origin::Api && configured.iter().any(|endpoint| *endpoint.id() == stored.id) {
            return Err(Error::NameTaken(stored.id));
        }
    }
    outbox.open_for(node, configured.iter().map(|endpoint| endpoint.stored().clone()).collect(), clock.now()).await?;
    let mut endpoints = Vec::new();
    for stored in outbox.endpoints(TenantScope::All).await? {
        let opened = match configured.iter().find(|endpoint| *endpoint.id() == stored.id) {
            Some(endpoint) => endpoint.with(stored).ok(),
            None => open_sealed(outbox, vault, stored, clock).await?,
        };
        endpoints.extend(opened);
    }
    Ok(endpoints)
}

/// An endpoint made by API, sealed under the newest key from now on. `None` when its secrets cannot be read:
/// then its deliveries wait until they can, or have waited too long.
async fn open_sealed(
    outbox: &dyn Endpoints,
    vault: &Vault,
    stored: Stored,
    clock: &Clock,
) -> Result<Option<Endpoint>, Error> {
    let id = stored.id.clone();
    let private = match vault.open(&id, &stored.sealed) {
        Ok(private) => private,
        Err(why) => {
            tracing::error!(endpoint = %id, "nothing is sent to an endpoint whose secrets cannot be read: {why}");
            return Ok(None);
        }
    };
    let stored = if vault.is_current(&stored.sealed) {
        stored
    } else {
        let sealed = vault.seal(&id, &private, clock.now());
        tracing::info!(endpoint = %id, "its secrets are encrypted under the newest server key from now on");
        outbox.put_endpoint(Stored { sealed, ..stored }, clock.now()).await?
    };
    Ok(Endpoint::new(stored, private).ok())
}
