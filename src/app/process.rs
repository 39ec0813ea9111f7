//! Metrics of this process from the kernel, under the names that all exporters use.

use std::path::Path;
use std::{fmt, fs};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::process::{Resource, getrlimit};

/// Reads the state of the process whenever metrics are collected.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    /// Start time of the machine in seconds since 1970; `None` if the kernel does not report it.
    booted_at: Option<f64>,
}

/// The fields that are used of `/proc/self/stat`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    threads: i64,
    start_ticks: f64,
    virtual_bytes: i64,
    resident_pages: i64,
}

impl ProcessMetrics {
    pub(super) fn new() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let booted_at = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        Self { booted_at }
    }
}

impl Stat {
    /// Parses the file. proc(5): the name of the program is in parentheses and may contain anything; the
    /// fields after it are numbered from 3.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let float = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let whole = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
        Some(Self {
            cpu_ticks: float(14)? + float(15)?,
            threads: whole(20)?,
            start_ticks: float(22)?,
            virtual_bytes: whole(23)?,
            resident_pages: whole(24)?,
        })
    }
}

/// Returns the number of open descriptors. Newer kernels report it as the size of the folder that lists them.
fn open_files() -> Option<i64> {
    let folder = Path::new("/proc/self/fd");
    let told = fs::metadata(folder).ok()?.len();
    let count = if told > 0 { told } else { u64::try_from(fs::read_dir(folder).ok()?.count()).ok()? };
    i64::try_from(count).ok()
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let ticks = rustix::param::clock_ticks_per_second();
        #[expect(clippy::cast_precision_loss, reason = "a hundred or a thousand")]
        let seconds = |count: f64| count / ticks as f64;
        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<f64>| match value {
            Some(value) => {
                ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?)
            }
            None => Ok(()),
        };
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let float = |value: i64| value as f64;
        let max_files = getrlimit(Resource::Nofile).current.and_then(|limit| i64::try_from(limit).ok());
        gauge("process_open_fds", "Number of open file descriptors.", None, open_files().map(float))?;
        gauge("process_max_fds", "Maximum number of open file descriptors.", None, max_files.map(float))?;
        let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) else {
            return Ok(());
        };
        let page_bytes = i64::try_from(rustix::param::page_size()).unwrap_or_default();
        let resident = float(stat.resident_pages.saturating_mul(page_bytes));
        gauge("process_resident_memory", "Resident memory, in bytes.", Some(&Unit::Bytes), Some(resident))?;
        let mapped = float(stat.virtual_bytes);
        gauge("process_virtual_memory", "Virtual memory, in bytes.", Some(&Unit::Bytes), Some(mapped))?;
        gauge("process_threads", "Number of threads.", None, Some(float(stat.threads)))?;
        let started = self.booted_at.map(|booted| booted + seconds(stat.start_ticks));
        gauge(
            "process_start_time",
            "Start time of the process since the Unix epoch, in seconds.",
            Some(&Unit::Seconds),
            started,
        )?;
        let help = "User and system CPU time, in seconds.";
        let cpu = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        ConstCounter::new(seconds(stat.cpu_ticks)).encode(cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_behind_the_name_of_the_program_are_read() {
        let text =
            "7 (a) b) S 1 7 7 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 9 0 12345 1048576 256 18446744073709551615 1\n";
        let expected =
            Stat { cpu_ticks: 300.0, threads: 9, start_ticks: 12_345.0, virtual_bytes: 1_048_576, resident_pages: 256 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_described() {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::new()));
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for name in [
            "process_open_fds",
            "process_max_fds",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_threads",
            "process_start_time_seconds",
            "process_cpu_seconds_total",
        ] {
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            assert!(value.is_some_and(|value| value > 0.0 || name.contains("cpu")), "{name} in\n{page}");
        }
    }
}
