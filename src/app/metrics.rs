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
use crate::app::postgres_metrics;
use crate::app::process::ProcessMetrics;
use cluster::{Drain, LivingNodes};
use edge::listen::ReadAhead;
use edge::listen::window::WindowBudget;
use state_postgres::PostgresStore;

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
                encode_reads(store, &mut encoder)?;
                postgres_metrics::encode(store, &mut encoder)
            }
        }
    }
}

/// Encodes where reads went, and how far each replica is.
fn encode_reads(store: &PostgresStore, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let counts = store.read_counts();
    let help = "Queries that a replica of the database could answer, by the server that did: primary or replica.";
    let mut sources = encoder.encode_descriptor("read_source", help, None, MetricType::Counter)?;
    for (source, count) in [("primary", counts.primary), ("replica", counts.replica)] {
        ConstCounter::new(count).encode(sources.encode_family(&[("source", source)])?)?;
    }
    let replicas = store.replicas();
    if replicas.is_empty() {
        return Ok(());
    }
    let help = "Age of the oldest commit that a replica of the database lacks, in seconds.";
    let mut lags = encoder.encode_descriptor("replica_lag", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for reading in &replicas {
        let labels = [("replica", reading.replica.as_str())];
        ConstGauge::new(reading.lag.as_secs_f64()).encode(lags.encode_family(&labels)?)?;
    }
    let help = "1 while queries go to a replica of the database, 0 while it lags, is unreachable or must not be used.";
    let mut used = encoder.encode_descriptor("replica_used", help, None, MetricType::Gauge)?;
    for reading in &replicas {
        let labels = [("replica", reading.replica.as_str())];
        ConstGauge::new(i64::from(reading.is_used)).encode(used.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Metrics of this node and of its cluster.
#[derive(Debug)]
pub(super) struct NodeMetrics {
    /// `None` for a node that works alone.
    pub(super) living: Option<LivingNodes>,
    pub(super) drain: Drain,
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let alive = self.living.as_ref().map_or(1, |living| living.list().len());
        let help = "Nodes that count as alive, this one included, as this one last read them.";
        let nodes = encoder.encode_descriptor("nodes_alive", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(alive).unwrap_or(i64::MAX)).encode(nodes)?;
        let help = "1 while this node hands over its uploads because it is about to stop, otherwise 0.";
        let draining = encoder.encode_descriptor("draining", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(self.drain.has_begun())).encode(draining)
    }
}
