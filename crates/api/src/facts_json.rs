//! What the bytes of an upload are, as JSON: in events, in the status, and in the database.

use serde_json::{Map, Value, json};

use domain::facts::{Content, Facts, Image, Media, Track, TrackKind};

/// The type; for audio and video the duration, the tracks, and the size of the picture of the first video track; for
/// images the size, the number of frames, and the duration of an animation. What is not known is left out.
pub fn facts_json(facts: &Facts) -> Value {
    let (width, height) = facts.size();
    let mut object = Map::new();
    object.insert("content_type".to_owned(), facts.content_type.as_str().into());
    put(&mut object, "duration_ms", facts.duration_ms());
    put(&mut object, "width", width);
    put(&mut object, "height", height);
    match &facts.content {
        Some(Content::Media(media)) => {
            object.insert("tracks".to_owned(), media.tracks.iter().map(track_json).collect());
        }
        Some(Content::Image(image)) => put(&mut object, "frames", image.frames),
        None => {}
    }
    Value::Object(object)
}

fn track_json(track: &Track) -> Value {
    let mut object = Map::new();
    object.insert("kind".to_owned(), track.kind.name().into());
    object.insert("codec".to_owned(), track.codec.as_str().into());
    put(&mut object, "width", track.width);
    put(&mut object, "height", track.height);
    put(&mut object, "frame_rate", track.frames_per_1000_s.map(|frames| json!(f64::from(frames) / 1000.0)));
    put(&mut object, "channels", track.channels);
    put(&mut object, "sample_rate_hz", track.sample_rate_hz);
    Value::Object(object)
}

fn put(object: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), value.into());
    }
}

/// The inverse of [`facts_json`]; `None` for anything it does not write.
pub fn facts_from_json(value: &Value) -> Option<Facts> {
    let content_type = value.get("content_type")?.as_str()?.to_owned();
    let duration_ms = value.get("duration_ms").and_then(Value::as_u64);
    let content = match (value.get("tracks"), number(value, "width").zip(number(value, "height"))) {
        (Some(tracks), _) => {
            let tracks = tracks.as_array()?.iter().map(track_from_json).collect::<Option<_>>()?;
            Some(Content::Media(Media { duration_ms, tracks }))
        }
        (None, Some((width, height))) => {
            Some(Content::Image(Image { width, height, frames: number(value, "frames"), duration_ms }))
        }
        (None, None) => None,
    };
    Some(Facts { content_type, content })
}

fn number(value: &Value, name: &str) -> Option<u32> {
    value.get(name).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok())
}

fn track_from_json(value: &Value) -> Option<Track> {
    let number = |name| number(value, name);
    Some(Track {
        kind: TrackKind::by_name(value.get("kind")?.as_str()?)?,
        codec: value.get("codec")?.as_str()?.to_owned(),
        width: number("width"),
        height: number("height"),
        frames_per_1000_s: value.get("frame_rate").and_then(Value::as_f64).and_then(thousandfold),
        channels: number("channels"),
        sample_rate_hz: number("sample_rate_hz"),
    })
}

/// Finds the whole number of thousandths that was written as `rate`.
fn thousandfold(rate: f64) -> Option<u32> {
    format!("{:.0}", rate * 1000.0).parse().ok()
}
