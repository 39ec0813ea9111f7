//! The measured values, as stored in results.json. It holds numbers only; the report evaluates them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::subject::Subject;

/// All measurements so far; a scenario that is measured again replaces its old numbers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) scenarios: BTreeMap<u8, Measured>,
}

/// One scenario, measured in one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The time of its end, in UTC.
    pub(crate) at: String,
    pub(crate) rounds: u32,
    /// Set for small sizes, which check that the scenario works and not how fast it is.
    pub(crate) quick: bool,
    pub(crate) machine: Machine,
    pub(crate) versions: BTreeMap<Subject, String>,
    /// The command line of each server.
    pub(crate) commands: BTreeMap<Subject, String>,
    /// Remarks that a reader needs in order to understand the numbers.
    pub(crate) notes: Vec<String>,
    pub(crate) samples: Vec<Sample>,
}

/// One run of one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) subject: Subject,
    /// The variant of the scenario, such as the size of a chunk. Empty if there is only one.
    pub(crate) variant: String,
    pub(crate) round: u32,
    pub(crate) values: Values,
    /// The reason why there are no values.
    pub(crate) failure: Option<String>,
}

pub(crate) type Values = BTreeMap<Metric, f64>;

/// The kinds of numbers. Each name contains the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Bytes over the time from the first byte sent to the response, in units of 10^6 bytes.
    MbPerSecond,
    /// The same, including the time in which the system wrote the rest to the disk after the response.
    MbPerSecondSynced,
    /// Processor time of the server, per 10^9 bytes.
    CpuSecondsPerGb,
    /// Processor time of the server of the database, per 10^9 bytes.
    DatabaseCpuSecondsPerGb,
    /// The sum of both.
    AllCpuSecondsPerGb,
    UploadsPerSecond,
    CpuMsPerUpload,
    /// Processor time of the server of the database, per upload.
    DatabaseCpuMsPerUpload,
    /// Changes of uploads that the database has made durable.
    CommitsPerSecond,
    CommitsPerTransaction,
    /// The time of the slowest of several concurrent uploads, divided by that of the fastest.
    SpreadRatio,
    P50Ms,
    P95Ms,
    P99Ms,
    P999Ms,
    MaxMs,
    /// The 99th percentile immediately before, without other load.
    QuietP99Ms,
    /// The number of requests that the percentiles cover.
    Requests,
    /// Connections that were neither cut nor answered.
    Alive,
    /// The number of connections.
    Connections,
    /// Resident memory above that of the idle server, per connection.
    KibPerUpload,
    IdleMib,
    /// Processor time of the server, per elapsed time.
    CpuPercent,
    /// Share of bytes served without reading the disk.
    HitPercent,
    /// The rate at which the server under load received bytes meanwhile, in units of 10^6 bytes per second.
    LoadMbPerSecond,
    /// The growth of the page cache.
    CacheGrownMib,
    /// The amount of the stored files that is in the page cache.
    ResidentMib,
    /// From the request after a cut to the response with the committed offset.
    OffsetP50Ms,
    OffsetP99Ms,
    /// From the same request to the acceptance of the next 4 KiB.
    AcceptedP50Ms,
    AcceptedP99Ms,
    /// Bytes sent before the cut that the server did not keep.
    LostMib,
    /// Requests that were rejected before one was accepted, per cut.
    Refusals,
    /// From the last byte sent to the arrival of the message.
    MessageMs,
    StartUpSeconds,
    /// Messages that reached the receiver.
    DeliveriesPerSecond,
    /// Processor time of the server, per 1,000 messages.
    CpuSecondsPerThousand,
    /// Messages that were still pending when the uploads ended.
    Backlog,
    RequestsPerSecond,
    /// Progress events written to the database: the most in any five seconds, divided by five.
    RowsPerSecond,
    /// Expected messages, messages that arrived, missing ones, and duplicates.
    Expected,
    Arrived,
    Lost,
    Duplicates,
    /// From sending a request to the arrival of its message.
    DelayMs,
    /// The maximum of resident memory.
    PeakMib,
}

impl Metric {
    /// Returns the heading of its column in a table.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::MbPerSecond => "MB/s",
            Self::MbPerSecondSynced => "MB/s until synced",
            Self::CpuSecondsPerGb => "CPU s per GB",
            Self::DatabaseCpuSecondsPerGb => "CPU s per GB, PostgreSQL",
            Self::AllCpuSecondsPerGb => "CPU s per GB, both",
            Self::PeakMib => "peak memory, MiB",
            Self::UploadsPerSecond => "uploads/s",
            Self::CpuMsPerUpload => "CPU ms per upload",
            Self::DatabaseCpuMsPerUpload => "CPU ms per upload, PostgreSQL",
            Self::CommitsPerSecond => "commits/s",
            Self::CommitsPerTransaction => "commits per transaction",
            Self::SpreadRatio => "spread",
            Self::P50Ms => "p50, ms",
            Self::P95Ms => "p95, ms",
            Self::P99Ms => "p99, ms",
            Self::P999Ms => "p99.9, ms",
            Self::MaxMs => "maximum, ms",
            Self::QuietP99Ms => "quiet p99, ms",
            Self::Requests => "requests",
            Self::Alive => "alive",
            Self::Connections => "connections",
            Self::KibPerUpload => "KiB per upload",
            Self::IdleMib => "idle memory, MiB",
            Self::CpuPercent => "CPU, % of a core",
            Self::HitPercent => "hit rate, %",
            Self::LoadMbPerSecond => "load, MB/s",
            Self::CacheGrownMib => "cache growth, MiB",
            Self::ResidentMib => "file in the cache, MiB",
            Self::OffsetP50Ms => "offset reported, p50 ms",
            Self::OffsetP99Ms => "offset reported, p99 ms",
            Self::AcceptedP50Ms => "accepted, p50 ms",
            Self::AcceptedP99Ms => "accepted, p99 ms",
            Self::LostMib => "dropped per cut, MiB",
            Self::Refusals => "rejections per cut",
            Self::MessageMs => "last byte to message, ms",
            Self::StartUpSeconds => "start-up, s",
            Self::DeliveriesPerSecond => "deliveries/s",
            Self::CpuSecondsPerThousand => "CPU s per 1,000 deliveries",
            Self::Backlog => "queue at the end",
            Self::RequestsPerSecond => "requests/s",
            Self::RowsPerSecond => "progress rows/s",
            Self::Expected => "expected",
            Self::Arrived => "arrived",
            Self::Lost => "lost",
            Self::Duplicates => "duplicates",
            Self::DelayMs => "median delay, ms",
        }
    }

    /// Reports whether more of it is better; `None` if neither is.
    pub(crate) fn more_is_better(self) -> Option<bool> {
        match self {
            Self::MbPerSecond
            | Self::MbPerSecondSynced
            | Self::UploadsPerSecond
            | Self::CommitsPerSecond
            | Self::Alive
            | Self::HitPercent
            | Self::DeliveriesPerSecond
            | Self::Arrived => Some(true),
            Self::Requests
            | Self::LoadMbPerSecond
            | Self::IdleMib
            | Self::Connections
            | Self::Backlog
            | Self::RequestsPerSecond
            | Self::Expected
            | Self::CommitsPerTransaction => None,
            _ => Some(false),
        }
    }
}

impl Results {
    /// Returns the content of the file, or an empty value if there is no file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("could not parse {}", path.display()))
    }

    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
    }
}
