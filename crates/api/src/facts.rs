//! Facts about the content of an upload: part of events, of the status, and of hook requests.

use domain::facts::{Content, Facts as Known, Track as KnownTrack};
use serde::{Deserialize, Serialize};

use crate::Keyword;

/// The content type; for audio and video the duration, the tracks, and the picture size of the first video
/// track; for images the size, the number of frames, and the duration of an animation. Unknown values are
/// omitted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    pub content_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracks: Option<Vec<Track>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Track {
    /// `video`, `audio` or `other`.
    pub kind: Keyword,
    pub codec: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Frames per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate_hz: Option<u32>,
}

impl From<&Known> for Facts {
    fn from(facts: &Known) -> Self {
        let (width, height) = facts.size();
        let (tracks, frames) = match &facts.content {
            Some(Content::Media(media)) => (Some(media.tracks.iter().map(Track::from).collect()), None),
            Some(Content::Image(image)) => (None, image.frames),
            None => (None, None),
        };
        let duration_ms = facts.duration_ms();
        Self { content_type: facts.content_type.clone(), duration_ms, width, height, tracks, frames }
    }
}

impl From<&KnownTrack> for Track {
    fn from(track: &KnownTrack) -> Self {
        Self {
            kind: track.kind.name().into(),
            codec: track.codec.clone(),
            width: track.width,
            height: track.height,
            frame_rate: track.frames_per_1000_s.map(|frames| f64::from(frames) / 1000.0),
            channels: track.channels,
            sample_rate_hz: track.sample_rate_hz,
        }
    }
}
