//! The configuration: every setting of an operator, and how it is read.
//!
//! Owns every key, its default, its range and its documentation, and the precedence of the layers: the
//! built-in `default.toml`, then a file, then `LONGSHORE_*` variables, then flags. All layers share the keys
//! of `default.toml`, which is also the reference for people. Promises that every existing [`Config`] is
//! valid as a whole, and that all errors are reported at once, each in one line that says what to write
//! instead. Reads explicit [`Inputs`] and the secret files that they name, never the process environment. Of
//! the other parts it knows only their settings types, into which it reads keys directly.

mod auth;
mod cluster;
mod cors;
mod database;
mod endpoint;
mod engine;
mod error;
mod hooks;
mod http2;
mod inputs;
mod layers;
mod limits;
mod log;
mod media;
mod object_store;
mod protocols;
mod reader;
mod registry;
mod secret;
mod server;
mod show;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod tls;
mod units;
mod webhooks;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use auth::AuthConfig;
pub(crate) use auth::read_secret;
pub use cluster::ClusterConfig;
pub use cors::{AllowOrigins, CorsConfig};
pub use endpoint::EndpointConfig;
pub use error::ConfigErrors;
pub use hooks::HooksConfig;
pub use http2::{FIRST_WINDOW_BYTES, Http2Config};
pub use inputs::Inputs;
pub use limits::LimitsConfig;
pub use log::{LogConfig, LogFormat};
pub use registry::{CONFIG_VARIABLE, ConfigKey, DEFAULTS, VARIABLE_PREFIX, keys};
pub use secret::SecretText;
pub use server::ServerConfig;
pub use status::StatusConfig;
pub use storage::{StorageConfig, StorageKind};
pub use tls::TlsConfig;
pub(crate) use units::parse_duration;
pub use webhooks::WebhooksConfig;

use dialects::uploads::Protocols;
use domain::node::NodeRole;
use layers::Layers;
use reader::Reader;
use state_postgres::PostgresSettings;
use state_sqlite::SqliteSettings;

/// The complete configuration: the settings of each layer in its own types, and the remaining settings by
/// section.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub server: ServerConfig,
    pub role: NodeRole,
    /// `None`: the server works alone.
    pub cluster: Option<ClusterConfig>,
    pub tls: TlsConfig,
    pub http2: Http2Config,
    pub limits: LimitsConfig,
    pub protocols: Protocols,
    pub storage: StorageConfig,
    pub engine: ::engine::EngineSettings,
    pub database: SqliteSettings,
    /// `None`: the database is SQLite in the data folder.
    pub postgres: Option<PostgresSettings>,
    pub status: StatusConfig,
    pub webhooks: WebhooksConfig,
    pub hooks: HooksConfig,
    pub auth: AuthConfig,
    pub cors: CorsConfig,
    pub log: LogConfig,
    /// Keys that have their default values, which may be fitted to the machine.
    pub unset: BTreeSet<&'static str>,
    /// Path of the configuration file, if there was one.
    pub file: Option<PathBuf>,
}

impl Config {
    /// Merges the inputs with the defaults and checks the result.
    pub fn read(inputs: &Inputs) -> Result<Self, ConfigErrors> {
        ResolvedConfig::read(inputs).map(|resolved| resolved.config)
    }

    fn from(reader: &mut Reader) -> Self {
        let server = ServerConfig::read(reader);
        let storage = StorageConfig::read(reader);
        let engine = engine::read(reader);
        let database = database::read(reader, storage.local.durability);
        let limits = LimitsConfig::read(reader);
        let cluster = ClusterConfig::read(reader, limits.bodies.idle_timeout);
        let config = Self {
            tls: TlsConfig::read(reader),
            http2: Http2Config::read(reader),
            limits,
            protocols: protocols::read(reader, &engine.ranges),
            role: cluster::read_role(reader, cluster.as_ref()),
            postgres: database::read_postgres(reader, storage.local.durability, &database, cluster.is_some()),
            cluster,
            database,
            storage,
            engine,
            status: StatusConfig::read(reader),
            webhooks: WebhooksConfig::read(reader, server.shutdown_timeout),
            hooks: HooksConfig::read(reader),
            auth: AuthConfig::read(reader),
            cors: CorsConfig::read(reader),
            log: LogConfig::read(reader),
            server,
            unset: reader.unset(),
            file: None,
        };
        config.auth.check(&config.server, &config.cors, reader);
        if config.cluster.is_some() {
            let has_database = config.postgres.is_some();
            let has_server_key = config.auth.server_keys.is_some();
            let shares_storage = config.storage.is_shared();
            cluster::check(reader, cluster::SharedParts { has_database, has_server_key, shares_storage });
        }
        config.storage.check(config.postgres.is_some(), reader);
        let smallest = config.engine.max_active_uploads as u64 * 4 * units::KIB;
        let keys = ["storage.buffer_memory", "limits.max_active_uploads"];
        reader.require(config.engine.writer.buffer_bytes >= smallest, &keys, |others| {
            format!("too small; it must hold 4KiB for each upload of {}", others.join(", "))
        });
        config
    }
}

impl Default for Config {
    /// Returns the configuration of `default.toml`.
    fn default() -> Self {
        Self::read(&Inputs::default()).expect("a test reads the built-in defaults")
    }
}

/// A configuration, with the source of each value.
#[derive(Debug)]
pub struct ResolvedConfig {
    pub config: Config,
    layers: Layers,
}

impl ResolvedConfig {
    pub fn read(inputs: &Inputs) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(Layers::new(inputs));
        let file = inputs.file.as_ref().map(|(path, _)| path.clone());
        let config = Config { file, ..Config::from(&mut reader) };
        let layers = reader.finish()?;
        Ok(Self { config, layers })
    }

    /// Returns the effective configuration as TOML. Secrets are hidden, and values other than defaults name
    /// their source.
    pub(crate) fn to_toml(&self) -> String {
        let names = self.config.webhooks.endpoints.iter().map(|endpoint| endpoint.name.as_str());
        self.layers.to_toml(&names.collect::<Vec<_>>())
    }
}

/// The address and scheme of a running server, for callers that need no valid configuration as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthTarget {
    pub listen: SocketAddr,
    /// Set if the server expects TLS.
    pub tls: bool,
}

impl HealthTarget {
    pub fn read(inputs: &Inputs) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(Layers::new(inputs));
        let reach =
            Self { listen: server::read_listen(&mut reader), tls: tls::read_certificate_file(&mut reader).is_some() };
        reader.finish().map(|_| reach)
    }
}
