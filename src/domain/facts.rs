//! What the bytes of an upload turned out to be.

/// Read from the bytes themselves, never from what a client said of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The media type, such as `video/mp4`; `application/octet-stream` when nothing was recognized.
    pub content_type: String,
    /// For audio and video whose headers could be read.
    pub media: Option<Media>,
}

/// What the headers of a media file say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Media {
    pub duration_ms: Option<u64>,
    pub tracks: Vec<Track>,
}

/// One track of a media file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    pub kind: TrackKind,
    /// As in a `codecs` parameter (RFC 6381) where it is known, such as `avc1.640028`, else a plain name.
    pub codec: String,
    /// As shown, in pixels.
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// Frames in a thousand seconds: 29,970 for NTSC.
    pub frames_per_1000_s: Option<u32>,
    pub channels: Option<u32>,
    pub sample_rate_hz: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackKind {
    Video,
    Audio,
    /// Subtitles, chapters, timed data.
    Other,
}

impl TrackKind {
    pub const ALL: [Self; 3] = [Self::Video, Self::Audio, Self::Other];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
            Self::Other => "other",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
