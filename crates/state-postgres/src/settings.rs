//! Settings of the database and its address.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use crate::schema::Schema;
use state::Durability;

/// The time within which a host must accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The time without acknowledgement after which the operating system closes a connection.
const DEAD_AFTER: Duration = Duration::from_secs(5);

/// Settings of the database.
#[derive(Debug, Clone, PartialEq)]
pub struct PostgresSettings {
    pub address: DatabaseUrl,
    /// The address of the server itself, if `address` is that of a pooler in transaction mode.
    pub direct_address: Option<DatabaseUrl>,
    /// The number of connections that commit uploads. The commits of an upload always use the same one.
    pub write_connections: u32,
    /// The maximum number of commits in one transaction.
    pub group_commit_max: usize,
    /// The number of connections for all other transactions: deliveries, endpoints, leases, retention.
    pub transaction_connections: u32,
    /// The number of connections that read.
    pub read_connections: u32,
    /// The failures that an acknowledged commit survives.
    pub durability: Durability,
    /// The time that a start waits for a server that is not there yet.
    pub start_timeout: Duration,
    /// The time that a caller waits in addition to the server's limit for its statement: for its turn, a
    /// connection, and a repetition.
    pub patience: Duration,
    /// True if this node only reads: it changes nothing but the entry of its node, and does not migrate.
    pub only_reads: bool,
    /// True if no other process may have the database open.
    pub alone: bool,
    /// The schema that this program brings the database to.
    pub schema: Schema,
    pub replicas: ReplicaSettings,
}

/// Settings of the replicas of the database.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaSettings {
    /// Empty: every read goes to the primary.
    pub addresses: Vec<DatabaseUrl>,
    /// The number of connections that read, to each replica.
    pub connections: u32,
    /// The time that a read waits for a replica to have what its client knows, before it goes to the primary.
    pub wait: Duration,
    /// The time by which a replica may be behind the primary and still be read from.
    pub max_lag: Duration,
}

impl Default for ReplicaSettings {
    fn default() -> Self {
        Self { addresses: Vec::new(), connections: 8, wait: Duration::from_millis(50), max_lag: Duration::from_secs(1) }
    }
}

impl PostgresSettings {
    pub fn new(address: DatabaseUrl) -> Self {
        Self {
            address,
            direct_address: None,
            write_connections: 2,
            group_commit_max: 128,
            transaction_connections: 4,
            read_connections: 8,
            durability: Durability::Strict,
            start_timeout: Duration::from_secs(60),
            patience: Duration::from_secs(15),
            only_reads: false,
            alone: false,
            schema: Schema::default(),
            replicas: ReplicaSettings::default(),
        }
    }

    /// Returns the maximum number of connections of a store, including one that listens for other nodes, one
    /// that holds the lock of the store, and one that watches each replica.
    pub fn connections(&self) -> u32 {
        let replicas = u32::try_from(self.replicas.addresses.len()).unwrap_or(u32::MAX);
        let to_replicas = replicas.saturating_mul(self.replicas.connections.saturating_add(1));
        (self.write_connections + self.transaction_connections + self.read_connections + 2).saturating_add(to_replicas)
    }
}

/// The address of the database, with the user. Displayed without the password.
#[derive(Clone, PartialEq)]
pub struct DatabaseUrl {
    config: Config,
    tls: Tls,
    shown: String,
}

/// The security of connections. The certificate and the name in it are always verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tls {
    Off,
    /// With the certificate authorities of the machine, or those in a file.
    On {
        authorities: Option<PathBuf>,
    },
}

/// The error for an address that does not name a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadDatabaseUrl(String);

impl DatabaseUrl {
    /// Parses `postgres://user@host:port/database?option=value`. Several hosts are separated by commas; the
    /// one that accepts writes is used. A separate password replaces the one in the address.
    pub fn parse(url: &str, password: Option<&str>) -> Result<Self, BadDatabaseUrl> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(BadDatabaseUrl("it must begin with postgres://".to_owned()));
        }
        let (address, options) = url.split_once('?').unwrap_or((url, ""));
        // The rest of a password must not be reported as an unknown option.
        if options.contains('@') && !address.contains('@') {
            return Err(BadDatabaseUrl("a ? in its password must be written as %3F".to_owned()));
        }
        let (mut ssl_mode, mut authorities, mut passed_on) = (None, None, Vec::new());
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            match name {
                "sslmode" => ssl_mode = Some(value.to_owned()),
                "sslrootcert" => authorities = Some(PathBuf::from(decoded(value)?)),
                "host"
                | "port"
                | "hostaddr"
                | "user"
                | "password"
                | "dbname"
                | "application_name"
                | "connect_timeout"
                | "target_session_attrs"
                | "options"
                | "channel_binding" => passed_on.push(option),
                unknown => {
                    return Err(BadDatabaseUrl(format!(
                        "it has the option {unknown}, which is not supported; supported are sslmode, sslrootcert, host, \
                         port, hostaddr, user, password, dbname, application_name, connect_timeout, options and \
                         channel_binding"
                    )));
                }
            }
        }
        let plain = format!("{address}?{}", passed_on.join("&"));
        let mut config = Config::from_str(&plain).map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            BadDatabaseUrl(format!("{error}{}", source.unwrap_or_default()))
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(BadDatabaseUrl("it contains no host".to_owned()));
        }
        if config.get_user().is_none() {
            return Err(BadDatabaseUrl("it contains no user, as in postgres://user@host/database".to_owned()));
        }
        if let Some(password) = password {
            config.password(password);
        }
        let tls = match ssl_mode.as_deref() {
            None if is_local(&config) => Tls::Off,
            Some("disable") => Tls::Off,
            // All three verify the server here: encryption without verification gives no protection.
            None | Some("require" | "verify-ca" | "verify-full") => Tls::On { authorities },
            Some(other) => {
                return Err(BadDatabaseUrl(format!(
                    "sslmode={other} is not supported; verify-full is the default, and disable turns TLS off"
                )));
            }
        };
        config
            .ssl_mode(if tls == Tls::Off { SslMode::Disable } else { SslMode::Require })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .keepalives(true)
            .keepalives_idle(DEAD_AFTER)
            .keepalives_interval(Duration::from_secs(1))
            .keepalives_retries(3)
            .tcp_user_timeout(DEAD_AFTER);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("longshore");
        }
        Ok(Self { config, tls, shown: redacted(address) })
    }

    /// Returns the address of the same server as one that need not accept writes.
    pub(crate) fn of_replica(mut self) -> Self {
        self.config.target_session_attrs(TargetSessionAttrs::Any);
        self
    }

    /// Returns the settings of a connection to each of the hosts.
    pub(crate) fn hosts(&self) -> Vec<Config> {
        let count = self.config.get_hosts().len().max(self.config.get_hostaddrs().len());
        (0..count).map(|place| self.only_host(place)).collect()
    }

    fn only_host(&self, place: usize) -> Config {
        let (all, mut one) = (&self.config, base_of(&self.config));
        match all.get_hosts().get(place) {
            Some(Host::Tcp(name)) => drop(one.host(name)),
            Some(Host::Unix(folder)) => drop(one.host_path(folder)),
            None => {}
        }
        if let Some(address) = all.get_hostaddrs().get(place) {
            one.hostaddr(*address);
        }
        // A single port is that of every host.
        if let Some(port) = all.get_ports().get(place).or(all.get_ports().first()) {
            one.port(*port);
        }
        one
    }

    #[cfg(test)]
    fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Reports whether the address contains a password.
    pub fn has_password(&self) -> bool {
        self.config.get_password().is_some()
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DatabaseUrl").field(&self.shown).finish()
    }
}

/// Copies all settings except the hosts.
fn base_of(all: &Config) -> Config {
    let mut one = Config::new();
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(database) = all.get_dbname() {
        one.dbname(database);
    }
    if let Some(options) = all.get_options() {
        one.options(options);
    }
    if let Some(name) = all.get_application_name() {
        one.application_name(name);
    }
    if let Some(limit) = all.get_connect_timeout() {
        one.connect_timeout(*limit);
    }
    if let Some(limit) = all.get_tcp_user_timeout() {
        one.tcp_user_timeout(*limit);
    }
    if let Some(interval) = all.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = all.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one.ssl_mode(all.get_ssl_mode())
        .target_session_attrs(all.get_target_session_attrs())
        .channel_binding(all.get_channel_binding())
        .keepalives(all.get_keepalives())
        .keepalives_idle(all.get_keepalives_idle());
    one
}

/// Reports whether all hosts are on this machine.
fn is_local(config: &Config) -> bool {
    let is_loopback =
        |name: &str| name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
        && config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => is_loopback(name),
            Host::Unix(_) => true,
        })
}

/// Returns the address without its password and its options.
fn redacted(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return String::new() };
    match rest.rsplit_once('@') {
        None => address.to_owned(),
        Some((user, place)) => match user.split_once(':') {
            None => address.to_owned(),
            Some((user, _)) => format!("{scheme}://{user}:***@{place}"),
        },
    }
}

fn decoded(value: &str) -> Result<String, BadDatabaseUrl> {
    let bad = || BadDatabaseUrl(format!("{value} is not percent-encoded text"));
    let (mut bytes, mut rest) = (Vec::with_capacity(value.len()), value.as_bytes());
    while let [first, behind @ ..] = rest {
        rest = behind;
        match (first, behind) {
            (b'%', [high, low, behind @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(digits.ok_or_else(bad)?);
                rest = behind;
            }
            (b'%', _) => return Err(bad()),
            (plain, _) => bytes.push(*plain),
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_never_shown_with_its_password() {
        let url = DatabaseUrl::parse("postgres://u:se%40cret@db1:5433,db2/name?connect_timeout=3", None).unwrap();
        assert_eq!(url.to_string(), "postgres://u:***@db1:5433,db2/name");
        assert!(!format!("{url:?}").contains("cret"));
        assert_eq!(url.config().get_password(), Some(&b"se@cret"[..]));
        assert_eq!(url.tls(), &Tls::On { authorities: None });
        let given = DatabaseUrl::parse("postgres://u@127.0.0.1/name", Some("other")).unwrap();
        assert_eq!(given.config().get_password(), Some(&b"other"[..]));
        assert_eq!(given.tls(), &Tls::Off);
        let root = DatabaseUrl::parse("postgres://u@db/name?sslmode=verify-full&sslrootcert=/a%20b.pem", None).unwrap();
        assert_eq!(root.tls(), &Tls::On { authorities: Some(PathBuf::from("/a b.pem")) });
        let socket = DatabaseUrl::parse("postgres://u@%2Frun%2Fpostgresql/name", None).unwrap();
        assert_eq!(socket.tls(), &Tls::Off);
    }

    #[test]
    fn a_bad_address_is_rejected_with_what_to_change() {
        for (url, word) in [
            ("mysql://u@h/d", "postgres://"),
            ("postgres://u@h/d?sslmode=prefer", "verify-full"),
            ("postgres://u@h/d?pool_size=3", "pool_size"),
            ("postgres://h/d", "user"),
            ("postgres://u@h:port/d", "port"),
            ("postgres://u:half?other@h/d", "%3F"),
        ] {
            let error = DatabaseUrl::parse(url, None).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
