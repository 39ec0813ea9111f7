//! Metrics of a PostgreSQL database.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use state_postgres::{DistributionReading, PostgresStore, Readings};

/// Encodes all metrics of the database that only PostgreSQL has.
pub(super) fn encode(store: &PostgresStore, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "How far this machine's clock is ahead of the database server's, in seconds.";
    let seconds = Some(&Unit::Seconds);
    let offset = encoder.encode_descriptor("database_clock_offset", help, seconds, MetricType::Gauge)?;
    ConstGauge::new(store.clock_offset_seconds()).encode(offset)?;

    let readings = store.readings();
    encode_commits(&readings, encoder)?;
    let help = "Time that callers waited for a connection to the database, by purpose, in seconds.";
    let mut waits = encoder.encode_descriptor("database_pool_wait", help, seconds, MetricType::Histogram)?;
    for (pool, wait) in &readings.pool_waits {
        Observed(wait).encode(waits.encode_family(&[("pool", *pool)])?)?;
    }
    let help = "Time for which readers of the event log have waited for an older open transaction, in seconds.";
    let lag = encoder.encode_descriptor("event_horizon_lag", help, seconds, MetricType::Gauge)?;
    ConstGauge::new(readings.horizon_lag.as_secs_f64()).encode(lag)?;
    let help = "Days from now on for which the tables of uploads have partitions.";
    let ahead = encoder.encode_descriptor("partitions_ahead_days", help, None, MetricType::Gauge)?;
    ConstGauge::new(readings.partitions_ahead_days).encode(ahead)?;
    let help = "Rows in the partitions for days without partitions, at most 1000 of each table; should be 0.";
    let other = encoder.encode_descriptor("partitions_other_rows", help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::try_from(readings.other_rows).unwrap_or(i64::MAX)).encode(other)
}

fn encode_commits(readings: &Readings, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Commits whose responses were lost, by what was found out.";
    let mut ambiguous = encoder.encode_descriptor("commit_ambiguous", help, None, MetricType::Counter)?;
    for (outcome, count) in readings.ambiguous_commits {
        ConstCounter::new(count).encode(ambiguous.encode_family(&[("outcome", outcome)])?)?;
    }
    let help = "Commits rejected because another node had taken over the upload.";
    let rejected = encoder.encode_descriptor("epoch_rejected", help, None, MetricType::Counter)?;
    ConstCounter::new(readings.epochs_rejected).encode(rejected)?;
    let help = "Changes of uploads that were committed in one transaction.";
    let sizes = encoder.encode_descriptor("commit_batch_size", help, None, MetricType::Histogram)?;
    Observed(&readings.batches).encode(sizes)
}

/// A distribution that was observed elsewhere.
struct Observed<'a>(&'a DistributionReading);

impl EncodeMetric for Observed<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_histogram::<NoLabelSet>(self.0.sum, self.0.count(), &self.0.groups, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
