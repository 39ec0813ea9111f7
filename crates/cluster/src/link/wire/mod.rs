//! The calls between nodes as they are sent: `POST /peer/v1/CALL` with JSON in both directions.
//!
//! The version is in the path. A node serves the present version and the one before, and answers 404 to
//! calls of others: nodes of two successive releases work side by side. Fields may be added within a version;
//! unknown ones are ignored.

mod forwarding;
mod rejections;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use domain::id::{InstanceId, NotAnId, UploadId};
use domain::size::{Length, Offset};
use engine::peers::{YieldAnswer, YieldCondition};
use state::ProgressReading;

pub(in crate::link) use forwarding::{ForwardAnswer, ForwardRequest, PREFIX_BYTES};
pub(in crate::link) use rejections::InvalidRejection;

/// The version of the calls that this node makes, and the newest that it serves.
const VERSION: u8 = if cfg!(feature = "previous-peer-version") { 0 } else { 1 };

/// The oldest version that this node serves.
const OLDEST_VERSION: u8 = VERSION.saturating_sub(1);

/// Maximum number of uploads in one call for progress.
pub(in crate::link) const MAX_READINGS: usize = 1000;

/// Maximum size of the JSON before the bytes of a forwarded request, which contains the header fields that
/// the application may see.
pub(in crate::link) const MAX_HEAD_BYTES: usize = 256 << 10;

/// Maximum size of the JSON of any other call.
pub(in crate::link) const MAX_REQUEST_BYTES: usize = 64 << 10;

/// Maximum size of the JSON of an answer.
pub(in crate::link) const MAX_ANSWER_BYTES: usize = 256 << 10;

/// The calls, in all versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::link) enum Call {
    Yield,
    Checkpoint,
    Progress,
    Forward,
}

impl Call {
    const ALL: [Self; 4] = [Self::Yield, Self::Checkpoint, Self::Progress, Self::Forward];

    pub(in crate::link) const fn name(self) -> &'static str {
        match self {
            Self::Yield => "yield",
            Self::Checkpoint => "checkpoint",
            Self::Progress => "progress",
            Self::Forward => "forward",
        }
    }

    /// The version that added the call.
    const fn since(self) -> u8 {
        match self {
            Self::Yield | Self::Checkpoint => 0,
            Self::Progress | Self::Forward => 1,
        }
    }

    /// Returns the path of the call, unless the version of this node lacks it.
    pub(in crate::link) fn path(self) -> Option<String> {
        (self.since() <= VERSION).then(|| format!("/peer/v{VERSION}/{}", self.name()))
    }

    /// Returns the call that a request makes, if this node serves it.
    pub(in crate::link) fn of(path: &str) -> Option<Self> {
        let (version, name) = path.strip_prefix("/peer/v")?.split_once('/')?;
        let version: u8 = version.parse().ok()?;
        let call = Self::ALL.into_iter().find(|call| call.name() == name)?;
        ((OLDEST_VERSION..=VERSION).contains(&version) && call.since() <= version).then_some(call)
    }
}

/// An id as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::link) struct TextId<T>(pub(in crate::link) T);

impl<T: fmt::Display> Serialize for TextId<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de, T: FromStr<Err = NotAnId>> Deserialize<'de> for TextId<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::link) struct YieldRequest {
    /// The node that the call is for. Another one may have its address by now.
    pub(in crate::link) to: TextId<InstanceId>,
    pub(in crate::link) upload: TextId<UploadId>,
    pub(in crate::link) when: WireCondition,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::link) enum WireCondition {
    Always,
    At { offset: u64 },
    Idle,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::link) enum WireYieldAnswer {
    Released,
    Elsewhere { offset: u64 },
    Busy,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::link) struct CheckpointRequest {
    pub(in crate::link) to: TextId<InstanceId>,
    pub(in crate::link) upload: TextId<UploadId>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::link) struct CheckpointAnswer {}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::link) struct ProgressRequest {
    pub(in crate::link) to: TextId<InstanceId>,
    /// At most [`MAX_READINGS`].
    pub(in crate::link) uploads: Vec<TextId<UploadId>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::link) struct ProgressAnswer {
    /// In the order of the uploads; null for one that the node does not write.
    pub(in crate::link) readings: Vec<Option<WireReading>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::link) struct WireReading {
    received_bytes: u64,
    #[serde(default)]
    bytes_per_second: u64,
    #[serde(default)]
    age_ms: u64,
}

/// An offset on the wire exceeds the maximum size of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an offset")]
pub(in crate::link) struct NotAnOffset(u64);

fn offset(bytes: u64) -> Result<Offset, NotAnOffset> {
    Offset::new(bytes).ok_or(NotAnOffset(bytes))
}

fn length(bytes: u64) -> Result<Length, NotAnOffset> {
    Length::new(bytes).ok_or(NotAnOffset(bytes))
}

impl From<YieldCondition> for WireCondition {
    fn from(condition: YieldCondition) -> Self {
        match condition {
            YieldCondition::Always => Self::Always,
            YieldCondition::At(offset) => Self::At { offset: offset.get() },
            YieldCondition::Idle => Self::Idle,
        }
    }
}

impl TryFrom<WireCondition> for YieldCondition {
    type Error = NotAnOffset;

    fn try_from(condition: WireCondition) -> Result<Self, NotAnOffset> {
        Ok(match condition {
            WireCondition::Always => Self::Always,
            WireCondition::At { offset: bytes } => Self::At(offset(bytes)?),
            WireCondition::Idle => Self::Idle,
        })
    }
}

impl From<YieldAnswer> for WireYieldAnswer {
    fn from(answer: YieldAnswer) -> Self {
        match answer {
            YieldAnswer::Released => Self::Released,
            YieldAnswer::Elsewhere(offset) => Self::Elsewhere { offset: offset.get() },
            YieldAnswer::Busy => Self::Busy,
        }
    }
}

impl TryFrom<WireYieldAnswer> for YieldAnswer {
    type Error = NotAnOffset;

    fn try_from(answer: WireYieldAnswer) -> Result<Self, NotAnOffset> {
        Ok(match answer {
            WireYieldAnswer::Released => Self::Released,
            WireYieldAnswer::Elsewhere { offset: bytes } => Self::Elsewhere(offset(bytes)?),
            WireYieldAnswer::Busy => Self::Busy,
        })
    }
}

impl From<ProgressReading> for WireReading {
    fn from(reading: ProgressReading) -> Self {
        let ProgressReading { received_bytes, bytes_per_second, age } = reading;
        Self { received_bytes, bytes_per_second, age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl From<WireReading> for ProgressReading {
    fn from(reading: WireReading) -> Self {
        let WireReading { received_bytes, bytes_per_second, age_ms } = reading;
        Self { received_bytes, bytes_per_second, age: Duration::from_millis(age_ms) }
    }
}
