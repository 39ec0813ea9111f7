//! Builds the edge and the front door from the configuration.

use std::sync::Arc;

use actix_web::http::header::HeaderName;
use pool::Pool;
use prometheus_client::registry::Registry;

use crate::app::public_url;
use crate::config::{AllowOrigins, Config};
use crate::front;
use crate::front::{HealthApi, NodeApi, Services, UploadApi, WebhookApi};
use cluster::{Drain, NodeDirectory};
use dialects::uploads::{DialectSettings, UploadContext};
use domain::host::Host;
use edge::access::{Access, ClientRights, Exposure, LoggedDenials, Origins, Token};
use edge::address_limits::AddressLimit;
use edge::addresses::Addresses;
use edge::answers::AnswerMemory;
use edge::refusals::Refusals;
use edge::stream_slots::StreamSlots;
use edge::{Cors, Edge, EdgeMetrics, PositionSource, Rejections};
use engine::Engine;
use keyring::{Cursors, ReadTokens, ServerKeys, StageTokens};
use webhook::Sender;

/// Counters of the edge.
#[derive(Debug, Clone, Default)]
pub(super) struct EdgeCounters {
    pub(super) refusals: Refusals,
    pub(super) rejections: Rejections,
    pub(super) edge: EdgeMetrics,
}

/// The parts of the server that the edge uses.
pub(super) struct EdgeParts<'a> {
    pub(super) engine: Engine,
    pub(super) sender: &'a Sender,
    pub(super) registry: Registry,
    pub(super) counters: EdgeCounters,
    pub(super) answer_memory: Pool,
    pub(super) drain: Drain,
    pub(super) nodes: NodeDirectory,
}

/// Builds the edge with its route table.
pub(super) fn edge(config: &Config, parts: EdgeParts<'_>, server_keys: &ServerKeys) -> Edge {
    let dialects = dialects::all();
    let access = Arc::new(access(config, server_keys));
    let addresses = Arc::new(addresses(config));
    let answers = AnswerMemory::new(parts.answer_memory.clone(), config.limits.timeouts.answer);
    let now = {
        let engine = parts.engine.clone();
        Box::new(move || engine.now())
    };
    let position: PositionSource = {
        let engine = parts.engine.clone();
        Box::new(move || {
            let engine = engine.clone();
            Box::pin(async move { engine.current_position().await })
        })
    };
    let EdgeCounters { refusals, rejections, edge: metrics } = parts.counters.clone();
    let own_fields = config.cors.allow_headers.iter().chain(&config.hooks.forward_headers);
    let lists = front::cors_lists(&dialects, header_names(own_fields).iter().map(ToString::to_string).collect());
    let services = services(config, parts, server_keys, &access, &addresses, &answers);
    Edge {
        table: front::table(dialects, &services),
        cors: Cors::new(config.cors.allow_credentials, config.cors.max_age, &lists),
        connections: AddressLimit::new(config.limits.max_connections_per_address),
        uploads: AddressLimit::new(config.limits.max_active_uploads_per_address),
        bodies: config.limits.bodies,
        access,
        addresses,
        refusals,
        rejections,
        metrics,
        answers,
        now,
        position,
    }
}

fn services(
    config: &Config,
    parts: EdgeParts<'_>,
    server_keys: &ServerKeys,
    access: &Arc<Access>,
    addresses: &Arc<Addresses>,
    answers: &AnswerMemory,
) -> Services {
    let EdgeParts { engine, sender, registry, counters, drain, nodes, .. } = parts;
    let settings = dialect_settings(config, &engine);
    let (max_page, idle_timeout, max_metadata_bytes) =
        (config.status.max_page, settings.idle_timeout, settings.max_metadata_bytes);
    let uploads = Arc::new(UploadContext {
        engine: engine.clone(),
        addresses: Arc::clone(addresses),
        settings,
        metrics: counters.edge.clone(),
    });
    let streams = AddressLimit::new(config.status.max_streams_per_address);
    let stream_slots = StreamSlots::new(config.status.max_streams, streams, &counters.edge, counters.refusals.clone());
    let cursors = Cursors::new(server_keys);
    let reads = UploadApi {
        engine: engine.clone(),
        uploads: Arc::clone(&uploads),
        access: Arc::clone(access),
        answers: answers.clone(),
        stream_slots,
        cursors: cursors.clone(),
        long_poll_max: config.status.long_poll_max,
        heartbeat: config.status.heartbeat,
        max_page,
        max_metadata_bytes,
        idle_timeout,
    };
    let webhooks = WebhookApi {
        webhooks: sender.admin().clone(),
        engine: engine.clone(),
        answers: answers.clone(),
        cursors,
        max_page,
        max_metadata_bytes,
        idle_timeout,
    };
    let health = HealthApi {
        engine,
        liveness: sender.liveness().clone(),
        readiness: front::health::Readiness::default(),
        access: Arc::clone(access),
        registry: Arc::new(registry),
        drain,
    };
    Services {
        uploads,
        reads: Arc::new(reads),
        webhooks: Arc::new(webhooks),
        health: Arc::new(health),
        nodes: Arc::new(NodeApi { nodes }),
    }
}

fn dialect_settings(config: &Config, engine: &Engine) -> DialectSettings {
    // The storage may require a larger alignment than the configuration.
    let range_alignment_bytes = engine.settings().ranges.alignment_bytes;
    DialectSettings {
        max_metadata_bytes: usize::try_from(config.limits.max_metadata_bytes).unwrap_or(usize::MAX),
        idle_timeout: config.limits.bodies.idle_timeout,
        // Without hooks no headers are collected.
        forward_headers: config.hooks.calls.is_some().then(|| header_names(&config.hooks.forward_headers)),
        clients_may_terminate: config.auth.public_terminate,
        protocols: config.protocols.clone(),
        range_alignment_bytes,
    }
}

fn addresses(config: &Config) -> Addresses {
    Addresses {
        public_url: public_url(config).to_owned(),
        scheme: if config.tls.files.is_some() { "https" } else { "http" },
        proxies: config.server.proxies.clone(),
    }
}

fn access(config: &Config, server_keys: &ServerKeys) -> Access {
    let (server, auth) = (&config.server, &config.auth);
    let own = [Some(server.listen), server.read_listen].into_iter().flatten().filter(|own| !own.ip().is_unspecified());
    let own = own.map(|own| Host::ip(own.ip())).chain(server.public_host());
    Access {
        token: auth.token.as_ref().map(|token| Token::new(token.expose())),
        admin_keys: auth.admin_keys.clone(),
        stage_tokens: StageTokens::new(server_keys),
        read_tokens: ReadTokens::new(server_keys),
        read_token_lifetime: auth.read_token_lifetime,
        query_tokens: auth.query_tokens,
        exposure: match (server.reached_from_elsewhere(), &server.public_url) {
            (None, None) => Exposure::ThisMachine,
            // A public URL means that a proxy forwards requests from elsewhere.
            (Some(_), _) | (_, Some(_)) => Exposure::Network,
        },
        hosts: auth.hosts.iter().cloned().chain(own).collect(),
        origins: match &config.cors.allow_origins {
            AllowOrigins::Auto if auth.token.is_some() => Origins::Any,
            AllowOrigins::Auto => Origins::ThisMachine { public: server.public_origin() },
            AllowOrigins::Any => Origins::Any,
            AllowOrigins::Listed(origins) => Origins::Listed(origins.clone()),
        },
        client_rights: ClientRights {
            list: auth.public_list,
            download: auth.public_download,
            terminate: auth.public_terminate,
        },
        logged_denials: LoggedDenials::default(),
    }
}

fn header_names<'a>(names: impl IntoIterator<Item = &'a String>) -> Vec<HeaderName> {
    names.into_iter().filter_map(|name| HeaderName::try_from(name.as_str()).ok()).collect()
}
