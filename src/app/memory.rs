//! Fits the server into the available memory.
//!
//! A process that uses more memory than its control group or machine allows is killed, and all requests with
//! it. Therefore everything that buffers client data has a budget, and each budget with its default value is
//! limited to a share of the memory limit. The shares leave a quarter for the process itself and for the
//! kernel's side of its connections and files.

use std::path::Path;
use std::{fmt, fs};

use crate::config::{Config, FIRST_WINDOW_BYTES};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Memory of the program, its threads, and everything that does not depend on the number of clients.
const PROCESS_BYTES: u64 = 24 * MIB;

/// Memory that one connection is counted with: its buffers and tasks while its response is sent in the
/// smallest pieces, or while it brings an upload, without the upload's own buffers. See docs/performance.md.
const CONNECTION_BYTES: u64 = 48 * KIB;

/// The same for an encrypted connection.
const ENCRYPTED_CONNECTION_BYTES: u64 = 112 * KIB;

/// Memory of one delivery attempt besides the response: the event and the connection.
const DELIVERY_BYTES: u64 = 64 * KIB;

/// Memory that one HTTP/2 connection is counted with: its first window, and its waiting requests.
const HTTP2_CONNECTION_BYTES: u64 = 2 * MIB;

/// Size of the smallest buffer, which must be available to every upload that receives.
const SMALLEST_BUFFER_BYTES: u64 = 4 * KIB;

/// Lower bound for fitted budgets.
const LEAST_BYTES: u64 = 16 * MIB;

/// The memory limit of the process, and its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryLimit {
    bytes: u64,
    of: Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    ControlGroup,
    Machine,
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = match self.of {
            Owner::ControlGroup => "the control group allows",
            Owner::Machine => "the machine has",
        };
        write!(f, "{}MiB that {owner}", self.bytes / MIB)
    }
}

impl MemoryLimit {
    /// Determines the limit of this process.
    pub(super) fn find() -> Self {
        let system = rustix::system::sysinfo();
        let machine = u64::from(system.mem_unit).saturating_mul(system.totalram);
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        match limit_of_groups(Path::new("/sys/fs/cgroup"), &groups) {
            Some(bytes) if bytes < machine => Self { bytes, of: Owner::ControlGroup },
            _ => Self { bytes: machine, of: Owner::Machine },
        }
    }
}

/// Returns the lowest limit of the control groups named in the text of `/proc/self/cgroup`, and of their
/// ancestors, in either version. In a container, its own group may be mounted at `root` under a different
/// name.
fn limit_of_groups(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, files): (_, &[&str]) = if controllers.is_empty() {
            (root.to_owned(), &["memory.max", "memory.high"])
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (root.join("memory"), &["memory.limit_in_bytes"])
        } else {
            return None;
        };
        let group = root.join(path.trim_start_matches('/'));
        let groups = group.ancestors().take_while(|group| group.starts_with(&root));
        let numbers = groups.flat_map(|group| files.iter().map(move |file| group.join(file)));
        // "max" is not a number, and version 1 uses a very large number instead.
        numbers.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()).min()
    });
    limits.min()
}

/// The memory budgets of a configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MemoryBudgets(Vec<(&'static str, u64)>);

impl MemoryBudgets {
    pub(super) fn of(config: &Config) -> Self {
        let http2 = if is_http2_spoken(config) { config.http2.memory_bytes } else { 0 };
        let webhooks = number(config.webhooks.sending.max_in_flight).saturating_mul(delivery_bytes(config));
        Self(vec![
            ("storage.buffer_memory", config.engine.writer.buffer_bytes),
            ("limits.answer_memory", config.limits.answer_memory_bytes),
            ("limits.read_ahead_memory", config.limits.read_ahead_memory_bytes),
            ("connections", connections(config).saturating_mul(connection_bytes(config))),
            ("http2.memory", http2),
            ("database.cache_memory", if config.postgres.is_none() { config.database.cache_bytes } else { 0 }),
            ("webhooks", webhooks),
            ("the process", PROCESS_BYTES),
        ])
    }

    pub(super) fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Logs the budgets and their sum, and warns if the sum exceeds the limit.
    pub(super) fn log(&self, limit: MemoryLimit) {
        let parts = self.0.iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<_> = parts.map(|(name, bytes)| format!("{name} {}MiB", bytes.div_ceil(MIB))).collect();
        let (sum, parts) = (self.sum().div_ceil(MIB), parts.join(", "));
        tracing::info!("memory: at most {sum}MiB of the {limit}: {parts}");
        if self.sum() > limit.bytes {
            tracing::warn!(
                "the memory budgets add up to {sum}MiB, more than the {limit}; under load the system may kill this \
                 process. Lower the budgets ({parts}), or leave them at their defaults"
            );
        }
    }
}

/// Lowers budgets and limits with default values to their share of the memory limit.
pub(super) fn fit(config: &mut Config, limit: MemoryLimit) {
    let share = |part: u64| (limit.bytes / part).max(1);
    let unset = config.unset.clone();
    let lower = |key: &str, value: &mut u64, most: u64| {
        if unset.contains(key) {
            *value = (*value).min(most);
        }
    };
    let lower_count = |key: &str, value: &mut usize, most: u64| {
        if unset.contains(key) {
            *value = (*value).min(usize::try_from(most.max(1)).unwrap_or(usize::MAX));
        }
    };
    let Config { engine, limits, database, http2, webhooks, .. } = &mut *config;

    let of_uploads = number(engine.max_active_uploads).saturating_mul(SMALLEST_BUFFER_BYTES);
    let for_uploads = if unset.contains("limits.max_active_uploads") { 0 } else { of_uploads };
    lower("storage.buffer_memory", &mut engine.writer.buffer_bytes, share(4).max(LEAST_BYTES).max(for_uploads));
    let buffers = engine.writer.buffer_bytes.max(LEAST_BYTES) / SMALLEST_BUFFER_BYTES;
    lower_count("limits.max_active_uploads", &mut engine.max_active_uploads, buffers);

    lower("limits.answer_memory", &mut limits.answer_memory_bytes, share(8).max(LEAST_BYTES));
    lower("limits.read_ahead_memory", &mut limits.read_ahead_memory_bytes, share(32).max(MIB));
    lower("database.cache_memory", &mut database.cache_bytes, share(16).max(MIB));

    let first_windows = number(http2.max_connections).saturating_mul(FIRST_WINDOW_BYTES);
    let for_windows = if unset.contains("http2.max_connections") { 0 } else { first_windows };
    lower("http2.memory", &mut http2.memory_bytes, share(8).max(for_windows));
    lower_count("http2.max_connections", &mut http2.max_connections, http2.memory_bytes / HTTP2_CONNECTION_BYTES);

    let sending = &mut webhooks.sending;
    let for_sending = share(16) / (sending.response_limit_bytes + DELIVERY_BYTES);
    let for_sending = for_sending.max(sending.max_in_flight_per_endpoint.into());
    lower_count("webhooks.max_in_flight", &mut sending.max_in_flight, for_sending);
    fit_connections(config, limit);
}

/// Fits the connections of both listeners, which share one budget. An explicit limit of one leaves less to
/// the other.
fn fit_connections(config: &mut Config, limit: MemoryLimit) {
    let share = if is_http2_spoken(config) { limit.bytes / 4 } else { limit.bytes / 8 * 3 };
    let most = share / connection_bytes(config);
    let reads_apart = config.server.read_listen.is_some();
    let is_set = |key| !config.unset.contains(key);
    let (all, reads) = (number(config.limits.max_connections), number(config.limits.max_read_connections));
    let (all, reads) = match (is_set("limits.max_connections"), is_set("limits.max_read_connections")) {
        _ if !reads_apart && is_set("limits.max_connections") => return,
        _ if !reads_apart => (all.min(most), reads),
        (true, true) => return,
        (true, false) => (all, reads.min(most.saturating_sub(all))),
        (false, true) => (all.min(most.saturating_sub(reads)), reads),
        (false, false) => (all.min(most / 5 * 4), reads.min(most / 5)),
    };
    let count = |number: u64| usize::try_from(number.max(1)).unwrap_or(usize::MAX);
    config.limits.max_connections = count(all);
    config.limits.max_read_connections = count(reads);
}

fn connections(config: &Config) -> u64 {
    let reads = config.server.read_listen.map_or(0, |_| number(config.limits.max_read_connections));
    number(config.limits.max_connections).saturating_add(reads)
}

/// HTTP/2 is negotiated only on encrypted connections.
fn is_http2_spoken(config: &Config) -> bool {
    config.tls.files.is_some() && config.http2.max_connections > 0
}

fn connection_bytes(config: &Config) -> u64 {
    if config.tls.files.is_some() { ENCRYPTED_CONNECTION_BYTES } else { CONNECTION_BYTES }
}

fn delivery_bytes(config: &Config) -> u64 {
    config.webhooks.sending.response_limit_bytes.saturating_add(DELIVERY_BYTES)
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::config::Inputs;
    use edge::listen::certificates::CertificateFiles;

    fn limit(bytes: u64) -> MemoryLimit {
        MemoryLimit { bytes, of: Owner::ControlGroup }
    }

    fn set(settings: &[(&str, &str)]) -> Config {
        let env: BTreeMap<_, _> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::read(&Inputs { env, ..Inputs::default() }).unwrap()
    }

    #[test]
    fn what_nobody_has_set_fits_into_any_limit_from_256_mib_on() {
        let mut encrypted = Config::default();
        let file = PathBuf::from("x.pem");
        encrypted.tls.files = Some(CertificateFiles { certificate: file.clone(), private_key: file });
        let mut apart = Config::default();
        apart.server.read_listen = Some(([127, 0, 0, 1], 0).into());
        for config in [Config::default(), encrypted, apart] {
            for mib in [256, 300, 512, 1_000, 2_048, 4_096, 65_536] {
                let mut fitted = config.clone();
                fit(&mut fitted, limit(mib * MIB));
                let budgets = MemoryBudgets::of(&fitted);
                assert!(budgets.sum() <= mib * MIB, "{} of {mib} MiB: {budgets:?}", budgets.sum() / MIB);
                let windows = number(fitted.http2.max_connections) * FIRST_WINDOW_BYTES;
                assert!(windows <= fitted.http2.memory_bytes, "{mib} MiB");
                let buffers = number(fitted.engine.max_active_uploads) * SMALLEST_BUFFER_BYTES;
                assert!(buffers <= fitted.engine.writer.buffer_bytes, "{mib} MiB");
                assert!(fitted.limits.max_connections >= 500, "{mib} MiB: {}", fitted.limits.max_connections);
            }
        }
    }

    #[test]
    fn a_large_machine_changes_nothing() {
        let mut config = Config::default();
        fit(&mut config, limit(64 << 30));
        assert_eq!(config, Config::default());
    }

    #[test]
    fn what_is_set_stays_as_it_is() {
        let names = [
            ("LONGSHORE_STORAGE_BUFFER_MEMORY", "1GiB"),
            ("LONGSHORE_LIMITS_ANSWER_MEMORY", "1GiB"),
            ("LONGSHORE_LIMITS_READ_AHEAD_MEMORY", "1GiB"),
            ("LONGSHORE_LIMITS_MAX_CONNECTIONS", "20001"),
            ("LONGSHORE_LIMITS_MAX_ACTIVE_UPLOADS", "10001"),
            ("LONGSHORE_DATABASE_CACHE_MEMORY", "65MiB"),
            ("LONGSHORE_HTTP2_MAX_CONNECTIONS", "65"),
            ("LONGSHORE_WEBHOOKS_MAX_IN_FLIGHT", "513"),
        ];
        let mut config = set(&names);
        fit(&mut config, limit(256 * MIB));
        let mut expected = set(&names);
        // The budget follows the number that was configured.
        expected.http2.memory_bytes = 65 * MIB;
        assert_eq!(config, expected);
        assert!(MemoryBudgets::of(&config).sum() > 256 * MIB, "which is worth a warning");
    }

    #[test]
    fn the_lowest_limit_of_a_group_and_those_above_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(limit_of_groups(root, "0::/\n"), None);
        // Version 2.
        write("memory.max", "max\n");
        write("a/memory.max", "300\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.high", "400\n");
        assert_eq!(limit_of_groups(root, "0::/a/b\n"), Some(300));
        assert_eq!(limit_of_groups(root, "0::/\n"), None);
        write("memory.max", "200\n");
        assert_eq!(limit_of_groups(root, "0::/not/mounted/here\n"), Some(200), "in a container");
        // Version 1, in addition.
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/c/memory.limit_in_bytes", "100\n");
        let groups = "4:cpu,cpuacct:/\n3:memory:/c\n0::/a\n";
        assert_eq!(limit_of_groups(root, groups), Some(100));
    }
}
