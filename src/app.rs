//! The composition root: takes a configuration and starts a server. The only place that selects backends; it
//! decides nothing else.

mod background;
pub mod data_folder;
mod database;
mod descriptors;
mod hooks;
mod keys;
mod listeners;
mod membership;
mod memory;
mod metrics;
pub mod migration;
pub mod moving;
mod node;
mod permissions;
mod postgres_metrics;
mod process;
pub mod store_check;
mod stores;
mod threads;
mod web;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::{fmt, io};

use anyhow::Context;
use pool::Pool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::background::Background;
use crate::app::data_folder::DataFolder;
use crate::app::database::Database;
use crate::app::listeners::Listeners;
use crate::app::membership::Registration;
use crate::app::threads::UploadThreads;
use crate::config;
use crate::config::Config;
use cluster::{Drain, NodeDirectory};
use domain::endpoint::EndpointTerms;
use domain::node::NodeRole;
use domain::time::Timestamp;
use engine::Engine;
use keyring::StageTokens;
use outbound::address::EgressRules;
use outbound::keys::{SigningKey, SigningKeys};
use state::LocalProgress;
use storage::local::LocalStoreResources;

pub use permissions::restrict_new_files;

/// A server that is listening.
pub struct RunningServer {
    /// Names of the webhook endpoints, as of the start.
    endpoints: Vec<String>,
    listeners: Listeners,
    engine: Engine,
    registration: Registration,
    drain: Drain,
    background: Background,
    database: Database,
    sending: tokio::task::JoinHandle<()>,
    stop_sending: CancellationToken,
    config: Config,
    _upload_threads: UploadThreads,
    /// Dropped last: the folder must stay locked until nothing uses it any more.
    _folder: DataFolder,
}

impl fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningServer").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// Outcome of a shutdown: whether all work that had begun was finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    Clean,
    TimedOut,
}

/// Starts everything: state, storage, recovery of unfinished work, the webhook sender, the listeners.
pub async fn start(mut config: Config) -> anyhow::Result<RunningServer> {
    let version = env!("CARGO_PKG_VERSION");
    match &config.file {
        Some(file) => tracing::info!(version, "starting longshore with the configuration file {}", file.display()),
        None => tracing::info!(version, "starting longshore without a configuration file"),
    }
    let memory_limit = memory::MemoryLimit::find();
    memory::fit(&mut config, memory_limit);
    let fitted = descriptors::fit(&mut config);
    memory::MemoryBudgets::of(&config).log(memory_limit);
    let answer_memory = Pool::new(config.limits.answer_memory_bytes);
    let data_dir = &config.server.data_dir;
    let folder = DataFolder::take(data_dir, config.storage.local.access)?;
    let resources = LocalStoreResources {
        direct_files: fitted.direct_files,
        keep_free_bytes: config.engine.space.min_free_bytes,
        read_pool: answer_memory.clone(),
        guard: Some(folder.lock()),
    };
    let blobs = stores::open(&config, &folder, resources).await?;
    let server_keys = keys::open(&config.auth, data_dir)?;
    let database = Database::open(&config, data_dir).await?;
    let clock = database.clock();
    let node = node::begin(&config, clock.now());
    let mut registration = Registration::begin(&config, &server_keys, &database, node).await?;
    let node = registration.node.instance;

    let outbox = database.outbox();
    let upload_threads = UploadThreads::start(&config).context("could not start the upload threads")?;
    let rules = egress_rules(&config);
    let parts = webhook::SenderParts {
        node,
        outbox: Arc::clone(&outbox),
        rules: Arc::clone(&rules),
        vault: webhook::Vault::new(&server_keys),
        settings: config.webhooks.sending.clone(),
        senders: registration.senders(),
    };
    let configured = configured_endpoints(&config.webhooks.endpoints, &rules, clock.now())?;
    let sender = match config.role {
        NodeRole::Read => webhook::Sender::open_to_read(parts, configured).await,
        NodeRole::All | NodeRole::Upload => webhook::Sender::open(parts, configured).await,
    };
    let sender = sender.context("could not start the webhook sender")?;
    let sender = sender.with_stage_tokens(StageTokens::new(&server_keys));

    let status_root = dialects::uploads::status_root(public_url(&config));
    let settings = engine::EngineSettings { status_root, ..config.engine.clone() };
    let engine = {
        // Tasks that the engine spawns run on the threads it is created on.
        let _here = upload_threads.enter();
        let progress = Arc::new(LocalProgress::default());
        Engine::new(
            settings,
            node,
            engine::Ports {
                uploads: database.uploads(),
                nodes: database.nodes(),
                duties: database.duties(),
                deliveries: outbox,
                bells: database.bells(),
                progress,
                blobs,
            },
        )
        .reporting_progress_while(sender.progress_wanted())
    };

    let engine = match database.reads() {
        Some(reads) => engine.reading_from(reads),
        None => engine,
    };
    let application = hooks::application(&config.hooks, &rules)?;
    let (engine, hook_metrics) = match application {
        Some((application, metrics)) => (engine.with_hooks(application), Some(metrics)),
        None => (engine, None),
    };
    let engine = registration.connect(engine);
    let engine = if config.role == NodeRole::Read { engine.only_reading() } else { engine };
    registration.serve_peers(&engine);
    let drain = Drain::default();
    let background = Background::start(&config, &engine, &registration, &database, &drain);
    let memory = listeners::ListenerMemory::of(&config);
    let counters = web::EdgeCounters::default();
    let registry = metrics::registry(|own| {
        engine.metrics().register(&dialects::names(), own);
        counters.refusals.register(own);
        counters.rejections.register(own);
        counters.edge.register(own);
        sender.metrics().register(own);
        if let Some(hooks) = hook_metrics {
            hooks.register(own);
        }
        own.register_collector(Box::new(memory_in_use(&config, &engine, &answer_memory, &memory)));
        own.register_collector(Box::new(metrics::DatabaseMetrics(database.clone())));
        own.register_collector(Box::new(metrics::NodeMetrics { living: registration.living(), drain: drain.clone() }));
    });

    if config.role != NodeRole::Read {
        engine.recover().await;
        engine.start_sweeping();
        engine.start_inventory();
    }

    counters.rejections.count_in("no-space", engine.metrics().without_space().clone());
    let nodes = NodeDirectory::new(database.nodes(), node, drain.clone());
    let parts = web::EdgeParts {
        engine: engine.clone(),
        sender: &sender,
        registry,
        counters,
        answer_memory,
        drain: drain.clone(),
        nodes,
    };
    let listeners = Listeners::start(&config, memory, &database, web::edge(&config, parts, &server_keys))?;
    rules.set_own([listeners.address].into_iter().chain(listeners.read_address).collect());
    fitted.log();
    let stop_sending = CancellationToken::new();
    Ok(RunningServer {
        endpoints: sender.endpoint_names(),
        listeners,
        engine,
        registration,
        drain,
        background,
        database,
        sending: tokio::spawn(sender.run(stop_sending.clone())),
        stop_sending,
        config,
        _upload_threads: upload_threads,
        _folder: folder,
    })
}

fn memory_in_use(
    config: &Config,
    engine: &Engine,
    answers: &Pool,
    memory: &listeners::ListenerMemory,
) -> metrics::MemoryMetrics {
    let http2_is_spoken = config.tls.files.is_some() && config.http2.max_connections > 0;
    metrics::MemoryMetrics {
        buffers: engine.buffers().clone(),
        answers: answers.clone(),
        read_ahead: (memory.read_ahead.clone(), memory.read_ahead.free_bytes()),
        http2: http2_is_spoken.then(|| (memory.http2.clone(), memory.http2.free_bytes())),
    }
}

fn public_url(config: &Config) -> &str {
    config.server.public_url.as_deref().unwrap_or_default()
}

fn egress_rules(config: &Config) -> Arc<EgressRules> {
    let rules = EgressRules::new(config.webhooks.allow_networks.clone(), config.webhooks.https_only);
    Arc::new(match &config.server.public_url {
        Some(url) => rules.with_public_url(url),
        None => rules,
    })
}

fn configured_endpoints(
    endpoints: &[config::EndpointConfig],
    rules: &EgressRules,
    now: Timestamp,
) -> anyhow::Result<Vec<webhook::SendableEndpoint>> {
    let endpoint = |endpoint: &config::EndpointConfig| {
        configured_endpoint(endpoint, rules, now).with_context(|| format!("could not use endpoint {}", endpoint.name))
    };
    endpoints.iter().map(endpoint).collect()
}

fn configured_endpoint(
    endpoint: &config::EndpointConfig,
    rules: &EgressRules,
    now: Timestamp,
) -> anyhow::Result<webhook::SendableEndpoint> {
    let secrets = endpoint.secrets.iter().cloned().map(SigningKey::Hmac);
    let keys = SigningKeys::permanent(secrets.chain(endpoint.private_key.clone().map(SigningKey::Ed25519)), now);
    let headers: Vec<(String, String)> =
        endpoint.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
    let terms = EndpointTerms { url: endpoint.url.clone(), ..endpoint.terms.clone() };
    let configured = webhook::SendableEndpoint::configured(endpoint.name.clone(), terms, keys, &headers, rules, now);
    // The text of the error contains that of its source, which would be repeated.
    configured.map_err(|error| anyhow::anyhow!("{error}"))
}

impl RunningServer {
    /// Returns the address it listens on. If port 0 was configured, this is the actual port.
    pub fn address(&self) -> SocketAddr {
        self.listeners.address
    }

    /// Returns the address of the separate listener for reads, if there is one.
    pub fn read_address(&self) -> Option<SocketAddr> {
        self.listeners.read_address
    }

    /// Announces to people and scripts that the server is up: one line on standard output for each listener,
    /// and a few in the log.
    pub fn announce(&self) -> anyhow::Result<()> {
        let address = self.address();
        let scheme = if self.config.tls.files.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let data_dir = &self.config.server.data_dir;
        let shown = data_dir.canonicalize().unwrap_or_else(|_| data_dir.clone());
        tracing::info!("accepting uploads at {url}/files; their status is at {url}/api/v1/uploads");
        tracing::info!("storing data in {}", shown.display());
        match self.endpoints.as_slice() {
            [] => tracing::info!("sending no webhooks: no endpoint is configured"),
            endpoints => tracing::info!("sending webhooks to {}", endpoints.join(", ")),
        }
        let token = if self.config.auth.token.is_some() { " -H 'Authorization: Bearer TOKEN'" } else { "" };
        tracing::info!(
            "try: curl -i -X POST {url}/files{token} -H 'Tus-Resumable: 1.0.0' -H 'Upload-Length: 5' -H 'Content-Type: application/offset+octet-stream' -d hello"
        );
        if !address.ip().is_loopback() && self.config.auth.token.is_none() {
            tracing::warn!(
                "ANYONE WHO REACHES {address} CAN UPLOAD, READ AND DELETE: auth.open is true and no auth.token is set"
            );
        }
        let mut out = io::stdout().lock();
        let mut lines = format!("listening on {url}\n");
        if let Some(address) = self.read_address() {
            tracing::info!("serving reads on a separate listener at {scheme}://{address}");
            lines.push_str(&format!("reading on {scheme}://{address}\n"));
        }
        out.write_all(lines.as_bytes()).and_then(|()| out.flush()).context("could not write to standard output")
    }

    /// Reloads the part of the configuration that can change while the server runs: the certificate.
    pub fn reload(&self) {
        if self.listeners.reload_certificate() {
            tracing::info!("reloading the TLS certificate; other configuration changes require a restart");
        } else {
            tracing::info!("nothing to reload: TLS is off, and configuration changes require a restart");
        }
    }

    /// Hands over the uploads of this node to the other nodes of its cluster. They are still served for a
    /// while, so that the load balancer and the clients notice.
    pub async fn drain(&self) {
        if self.config.cluster.is_some() {
            self.drain.begin();
            self.drain.ended().await;
        }
    }

    /// Shuts down gracefully: no new work is accepted, live uploads commit the bytes they have received,
    /// clients get their responses, deliveries in flight end, and the database is closed. Takes at most the
    /// configured time. A client that does not read its response can use up most of that time, but does not
    /// prevent the other steps.
    pub async fn stop(self) -> StopOutcome {
        let deadline = Instant::now() + self.config.server.shutdown_timeout;
        let for_answers = self.config.server.shutdown_timeout.mul_f32(0.8);
        let tasks_ended = self.engine.shut_down(for_answers).await;
        self.stop_sending.cancel();
        let answered = tokio::time::timeout_at(deadline - for_answers / 4, self.listeners.stop(true));
        // The sender has logged its own end.
        let (answered, _) = tokio::join!(answered, self.sending);
        if answered.is_err() {
            self.listeners.stop(false).await;
        }
        let leaving = async {
            self.background.stop().await;
            self.registration.end(tasks_ended).await;
            self.database.close().await;
        };
        let closed = tokio::time::timeout_at(deadline, leaving).await;
        if tasks_ended && answered.is_ok() && closed.is_ok() { StopOutcome::Clean } else { StopOutcome::TimedOut }
    }
}
