//! The stored form of media facts, for the column `facts`.
//!
//! This is the first and so far the only form: JSON, so that indexes and queries can read it. It is
//! independent of the JSON of the API, which may change separately.

use serde::{Deserialize, Serialize};

use domain::facts::{Content, Facts, Image, Media, Track, TrackKind};

/// Size and duration are at the top level for every kind of content that has them.
#[derive(Serialize, Deserialize)]
struct StoredFacts {
    content_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    /// For audio and video only.
    #[serde(skip_serializing_if = "Option::is_none")]
    tracks: Option<Vec<StoredTrack>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct StoredTrack {
    kind: String,
    codec: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample_rate_hz: Option<u32>,
}

pub(super) fn write(facts: &Facts) -> String {
    let (width, height) = facts.size();
    let (tracks, frames) = match &facts.content {
        Some(Content::Media(media)) => (Some(media.tracks.iter().map(stored_track).collect()), None),
        Some(Content::Image(image)) => (None, image.frames),
        None => (None, None),
    };
    let duration_ms = facts.duration_ms();
    let content_type = facts.content_type.clone();
    let stored = StoredFacts { content_type, duration_ms, width, height, tracks, frames };
    serde_json::to_string(&stored).expect("strings and numbers are always JSON")
}

/// Reads facts written by [`write()`]; `None` for any other text.
pub(super) fn read(text: &str) -> Option<Facts> {
    let StoredFacts { content_type, duration_ms, width, height, tracks, frames } = serde_json::from_str(text).ok()?;
    let content = match (tracks, width.zip(height)) {
        (Some(tracks), _) => {
            let tracks = tracks.into_iter().map(track).collect::<Option<_>>()?;
            Some(Content::Media(Media { duration_ms, tracks }))
        }
        (None, Some((width, height))) => Some(Content::Image(Image { width, height, frames, duration_ms })),
        (None, None) => None,
    };
    Some(Facts { content_type, content })
}

fn stored_track(track: &Track) -> StoredTrack {
    StoredTrack {
        kind: track.kind.name().to_owned(),
        codec: track.codec.clone(),
        width: track.width,
        height: track.height,
        frame_rate: track.frames_per_1000_s.map(|frames| f64::from(frames) / 1000.0),
        channels: track.channels,
        sample_rate_hz: track.sample_rate_hz,
    }
}

fn track(stored: StoredTrack) -> Option<Track> {
    let StoredTrack { kind, codec, width, height, frame_rate, channels, sample_rate_hz } = stored;
    let frames_per_1000_s = frame_rate.and_then(thousandfold);
    Some(Track { kind: TrackKind::by_name(&kind)?, codec, width, height, frames_per_1000_s, channels, sample_rate_hz })
}

/// Converts a rate to the whole number of thousandths that it was written from.
fn thousandfold(rate: f64) -> Option<u32> {
    format!("{:.0}", rate * 1000.0).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Existing databases contain rows in exactly this form.
    #[test]
    fn facts_are_written_as_they_always_were() {
        let video = Track {
            kind: TrackKind::Video,
            codec: "avc1.640028".to_owned(),
            width: Some(1920),
            height: Some(1080),
            frames_per_1000_s: Some(29_970),
            channels: None,
            sample_rate_hz: None,
        };
        let audio = Track {
            kind: TrackKind::Audio,
            codec: "opus".to_owned(),
            width: None,
            height: None,
            frames_per_1000_s: None,
            channels: Some(2),
            sample_rate_hz: Some(48_000),
        };
        let media = Content::Media(Media { duration_ms: Some(5_000), tracks: vec![video, audio] });
        let image = Content::Image(Image { width: 3, height: 2, frames: Some(1), duration_ms: None });
        for (content_type, content, text) in [
            (
                "video/mp4",
                Some(media),
                concat!(
                    r#"{"content_type":"video/mp4","duration_ms":5000,"width":1920,"height":1080,"tracks":["#,
                    r#"{"kind":"video","codec":"avc1.640028","width":1920,"height":1080,"frame_rate":29.97},"#,
                    r#"{"kind":"audio","codec":"opus","channels":2,"sample_rate_hz":48000}]}"#
                ),
            ),
            ("image/gif", Some(image), r#"{"content_type":"image/gif","width":3,"height":2,"frames":1}"#),
            ("text/plain", None, r#"{"content_type":"text/plain"}"#),
        ] {
            let facts = Facts { content_type: content_type.to_owned(), content };
            assert_eq!(write(&facts), text);
            assert_eq!(read(text), Some(facts));
        }
        assert_eq!(read(r#"{"content_type":"video/mp4","tracks":[{"kind":"smell","codec":"x"}]}"#), None);
    }
}
