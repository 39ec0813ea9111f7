//! What was measured, as it is kept in results.json. Numbers only; the report judges them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::subject::Subject;

/// Everything measured so far; a scenario measured again replaces its old numbers.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) scenarios: BTreeMap<u8, Measured>,
}

/// One scenario, measured in one go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// When it ended, UTC.
    pub(crate) at: String,
    pub(crate) rounds: u32,
    /// Small sizes: shows that it works, not how fast it is.
    pub(crate) quick: bool,
    pub(crate) machine: Machine,
    pub(crate) versions: BTreeMap<Subject, String>,
    /// How each server was started.
    pub(crate) commands: BTreeMap<Subject, String>,
    /// What a reader must know that the numbers do not say.
    pub(crate) notes: Vec<String>,
    pub(crate) samples: Vec<Sample>,
}

/// One run of one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) subject: Subject,
    /// Which form of the scenario, such as the size of a chunk. Empty where there is one only.
    pub(crate) variant: String,
    pub(crate) round: u32,
    pub(crate) values: Values,
    /// Why there are no values.
    pub(crate) failure: Option<String>,
}

pub(crate) type Values = BTreeMap<Metric, f64>;

/// What a number counts. Its unit is part of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// Bytes over the time from the first byte sent to the answer, in units of 10^6 bytes.
    MbPerSecond,
    /// The same, with the time in which the system brought the rest to the disk after the answer.
    MbPerSecondSynced,
    /// Processor time of the server, per 10^9 bytes.
    CpuSecondsPerGb,
    UploadsPerSecond,
    CpuMsPerUpload,
    /// Slowest upload's time over that of the fastest, of uploads that ran together.
    SpreadRatio,
    P50Ms,
    P95Ms,
    P99Ms,
    P999Ms,
    /// The 99th percentile just before, with nothing else going on.
    QuietP99Ms,
    /// How many requests the percentiles are of.
    Requests,
    /// Connections that nobody cut and nobody answered.
    Alive,
    /// Connections there were.
    Connections,
    /// Resident memory above the idle server's, per connection.
    KibPerUpload,
    IdleMib,
    /// Processor time of the server, per time that passed.
    CpuPercent,
    /// Share of bytes served without reading the disk.
    HitPercent,
    /// What the server under load took in meanwhile, in units of 10^6 bytes per second.
    LoadMbPerSecond,
    /// What the page cache grew by.
    CacheGrownMib,
    /// How much of the stored files lies in the page cache.
    ResidentMib,
    /// From the request after a cut to the answer that tells the committed offset.
    OffsetP50Ms,
    OffsetP99Ms,
    /// From the same request to the acceptance of the next 4 KiB.
    AcceptedP50Ms,
    AcceptedP99Ms,
    /// Bytes sent before the cut that the server did not keep.
    LostMib,
    /// Requests that were refused before one was accepted, per cut.
    Refusals,
    /// From the last byte sent to the arrival of the message.
    MessageMs,
    StartUpSeconds,
    /// Messages that reached the receiver.
    DeliveriesPerSecond,
    /// Processor time of the server, per 1,000 messages.
    CpuSecondsPerThousand,
    /// Messages that were still to be sent when the uploads ended.
    Backlog,
    RequestsPerSecond,
    /// Progress events written to the database: the most in any five seconds, over five.
    RowsPerSecond,
    /// Messages that had to come, those that came, those that did not, and what came more than once.
    Expected,
    Arrived,
    Lost,
    Duplicates,
    /// From sending a request to the arrival of its message.
    DelayMs,
    /// The most resident memory there was.
    PeakMib,
}

impl Metric {
    /// As a column of a table.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::MbPerSecond => "MB/s",
            Self::MbPerSecondSynced => "MB/s until synced",
            Self::CpuSecondsPerGb => "CPU s per GB",
            Self::PeakMib => "peak memory, MiB",
            Self::UploadsPerSecond => "uploads/s",
            Self::CpuMsPerUpload => "CPU ms per upload",
            Self::SpreadRatio => "spread",
            Self::P50Ms => "p50, ms",
            Self::P95Ms => "p95, ms",
            Self::P99Ms => "p99, ms",
            Self::P999Ms => "p99.9, ms",
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

    /// Whether more of it is better; nothing where neither is.
    pub(crate) fn more_is_better(self) -> Option<bool> {
        match self {
            Self::MbPerSecond
            | Self::MbPerSecondSynced
            | Self::UploadsPerSecond
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
            | Self::Expected => None,
            _ => Some(false),
        }
    }
}

impl Results {
    /// What is in the file; nothing, if there is none.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("could not understand {}", path.display()))
    }

    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
    }
}
