//! All metrics, in one registry.

use std::fmt;

use pool::Pool;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::app::database::Database;
use crate::app::process::ProcessMetrics;
use edge::listen::ReadAhead;
use edge::listen::window::WindowBudget;

/// Prefix of the server's own metrics.
const PREFIX: &str = "longshore";

/// Creates a registry with metrics of the process and the program. `register` adds the others to the
/// sub-registry with the prefix.
pub(super) fn registry(register: impl FnOnce(&mut Registry)) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ProcessMetrics::new()));
    let own = registry.sub_registry_with_prefix(PREFIX);
    own.register("build", "Version of the running program", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    register(own);
    registry
}

/// The memory budgets, by the configuration key that sets them.
#[derive(Debug)]
pub(super) struct MemoryMetrics {
    pub(super) buffers: Pool,
    pub(super) answers: Pool,
    pub(super) read_ahead: (ReadAhead, u64),
    /// `None` if HTTP/2 is off.
    pub(super) http2: Option<(WindowBudget, u64)>,
}

impl MemoryMetrics {
    /// Returns each budget: its key, its usage, and its size.
    fn budgets(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let of_pool = |pool: &Pool| {
            let free = u64::try_from(pool.free_bytes()).unwrap_or(u64::MAX);
            (pool.size_bytes().saturating_sub(free), pool.size_bytes())
        };
        let (buffers, answers) = (of_pool(&self.buffers), of_pool(&self.answers));
        let (read_ahead, size) = &self.read_ahead;
        let read_ahead = (size.saturating_sub(read_ahead.free_bytes()), *size);
        let http2 = self.http2.as_ref().map(|(budget, size)| (size.saturating_sub(budget.free_bytes()), *size));
        let budgets = [
            ("storage.buffer_memory", Some(buffers)),
            ("limits.answer_memory", Some(answers)),
            ("limits.read_ahead_memory", Some(read_ahead)),
            ("http2.memory", http2),
        ];
        budgets.into_iter().filter_map(|(key, budget)| budget.map(|(used, size)| (key, used, size)))
    }
}

impl Collector for MemoryMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = |bytes: u64| ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
        let help = "Memory in use, by budget (the configuration key that sets it), in bytes.";
        let mut used = encoder.encode_descriptor("memory_used", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for (budget, bytes, _) in self.budgets() {
            gauge(bytes).encode(used.encode_family(&[("budget", budget)])?)?;
        }
        let help = "Size of each memory budget, by the configuration key that sets it, in bytes.";
        let mut limits = encoder.encode_descriptor("memory_limit", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for (budget, _, bytes) in self.budgets() {
            gauge(bytes).encode(limits.encode_family(&[("budget", budget)])?)?;
        }
        Ok(())
    }
}

/// Metrics of the database.
#[derive(Debug)]
pub(super) struct DatabaseMetrics(pub(super) Database);

impl Collector for DatabaseMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(database) = self;
        let help = "Database write transactions; concurrent writes share one.";
        let transactions = encoder.encode_descriptor("database_transactions", help, None, MetricType::Counter)?;
        ConstCounter::new(database.transactions()).encode(transactions)?;
        let help = "Writes committed in database transactions.";
        ConstCounter::new(database.writes()).encode(encoder.encode_descriptor(
            "database_writes",
            help,
            None,
            MetricType::Counter,
        )?)?;
        match database {
            Database::Sqlite(store) => {
                let help = "Size of the database's write-ahead log, in bytes.";
                let log_bytes = i64::try_from(store.log_bytes()).unwrap_or(i64::MAX);
                let unit = Some(&Unit::Bytes);
                ConstGauge::new(log_bytes).encode(encoder.encode_descriptor(
                    "database_wal",
                    help,
                    unit,
                    MetricType::Gauge,
                )?)
            }
            Database::Postgres(store) => {
                let help = "How far this machine's clock is ahead of the database server's, in seconds.";
                let unit = Some(&Unit::Seconds);
                ConstGauge::new(store.clock_offset_seconds()).encode(encoder.encode_descriptor(
                    "database_clock_offset",
                    help,
                    unit,
                    MetricType::Gauge,
                )?)
            }
        }
    }
}
