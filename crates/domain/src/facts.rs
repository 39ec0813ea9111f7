//! Facts about the content of an upload: type, duration, tracks and dimensions.

/// Facts read from the bytes themselves, never from the client's declarations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The media type, such as `video/mp4`; `application/octet-stream` when nothing was recognized.
    pub content_type: String,
    /// Set for audio, video and images whose headers could be read.
    pub content: Option<Content>,
}

/// Facts from the headers of a file, by the kind of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Media(Media),
    Image(Image),
}

/// Facts from the headers of audio or video.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Media {
    pub duration_ms: Option<u64>,
    pub tracks: Vec<Track>,
}

/// One track of a media file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    pub kind: TrackKind,
    /// The value as in a `codecs` parameter (RFC 6381) if it is known, such as `avc1.640028`, otherwise a
    /// plain name.
    pub codec: String,
    /// The displayed width in pixels.
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// Frames in 1000 seconds: 29,970 for NTSC.
    pub frames_per_1000_s: Option<u32>,
    pub channels: Option<u32>,
    pub sample_rate_hz: Option<u32>,
}

crate::named! {
    pub enum TrackKind {
        Video = "video",
        Audio = "audio",
        /// Subtitles, chapters or timed data.
        Other = "other",
    }
}

/// Facts from the headers of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// The displayed width in pixels.
    pub width: u32,
    pub height: u32,
    /// The number of frames: 1 for a still, `None` if counting would read too much of the file.
    pub frames: Option<u32>,
    /// The duration of one run of an animation.
    pub duration_ms: Option<u64>,
}

/// The duration of content, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentDuration {
    No,
    Milliseconds(u64),
    /// The content may have a duration, which is unknown.
    Unknown,
}

/// Types of images that may be animated.
const ANIMATED: [&str; 7] =
    ["image/gif", "image/png", "image/webp", "image/avif", "image/heic", "image/heif", "image/jxl"];

impl Facts {
    pub fn media(&self) -> Option<&Media> {
        match &self.content {
            Some(Content::Media(media)) => Some(media),
            Some(Content::Image(_)) | None => None,
        }
    }

    pub fn duration_ms(&self) -> Option<u64> {
        match self.content.as_ref()? {
            Content::Media(media) => media.duration_ms,
            Content::Image(image) => image.duration_ms,
        }
    }

    /// Returns the width and height of the image or of the first video track.
    pub fn size(&self) -> (Option<u32>, Option<u32>) {
        match &self.content {
            Some(Content::Media(media)) => {
                let video = media.tracks.iter().find(|track| track.kind == TrackKind::Video);
                (video.and_then(|track| track.width), video.and_then(|track| track.height))
            }
            Some(Content::Image(image)) => (Some(image.width), Some(image.height)),
            None => (None, None),
        }
    }

    /// Returns the duration. Audio and video have one, and so do images unless they are known to be stills.
    pub fn content_duration(&self) -> ContentDuration {
        if let Some(duration_ms) = self.duration_ms() {
            return ContentDuration::Milliseconds(duration_ms);
        }
        let may_last = match &self.content {
            Some(Content::Image(image)) => image.frames != Some(1),
            Some(Content::Media(_)) => true,
            None => {
                let is_media = ["audio/", "video/"].iter().any(|kind| self.content_type.starts_with(kind));
                is_media || ANIMATED.contains(&self.content_type.as_str())
            }
        };
        if may_last { ContentDuration::Unknown } else { ContentDuration::No }
    }
}
