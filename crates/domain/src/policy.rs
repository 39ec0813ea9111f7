//! Rules that reject files for their type, size or duration.

use std::time::Duration;

use crate::facts::{ContentDuration, Facts};
use crate::failure::{Failure, RejectionKind};

/// Limits on the content of uploads, checked once the content is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentPolicy {
    /// The permitted types; empty permits all.
    pub allowed_types: Vec<TypePattern>,
    /// The longest duration of audio, video and animated images whose type has no entry in `max_durations`.
    pub max_duration: Option<Duration>,
    /// The longest duration of a type; `None` means unlimited. The first matching entry applies.
    pub max_durations: Vec<(TypePattern, Option<Duration>)>,
    /// True if media with a limited duration is rejected when its duration is unknown.
    pub requires_duration: bool,
    /// The maximum size of a type in bytes. The first matching entry applies.
    pub max_sizes: Vec<(TypePattern, u64)>,
}

/// A media type, or a pattern such as `video/*` for all its subtypes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypePattern(String);

impl TypePattern {
    /// Returns `None` if the text is not a media type or such a pattern.
    pub fn new(text: &str) -> Option<Self> {
        let word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
        };
        let (kind, rest) = text.split_once('/')?;
        (word(kind) && (rest == "*" || word(rest))).then(|| Self(text.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn fits(&self, content_type: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => content_type.starts_with(prefix),
            None => self.0 == content_type,
        }
    }
}

impl ContentPolicy {
    /// Returns the failure if an upload with these facts and this size is rejected.
    pub fn failure_of(&self, facts: &Facts, size_bytes: u64) -> Option<Failure> {
        let content_type = &facts.content_type;
        if !self.allowed_types.is_empty() && !self.allowed_types.iter().any(|pattern| pattern.fits(content_type)) {
            let message = format!("uploads of the detected type {content_type} are not accepted by this server");
            return Some(refused("type-not-allowed", message, RejectionKind::WrongType));
        }
        let limit = self.max_sizes.iter().find(|(pattern, _)| pattern.fits(content_type));
        if let Some((_, limit)) = limit.filter(|(_, limit)| size_bytes > *limit) {
            let message = format!("an upload of the type {content_type} may have at most {limit} bytes on this server");
            return Some(refused("too-large-for-type", message, RejectionKind::TooLarge));
        }
        let (max, is_named) = self.max_duration_of(content_type)?;
        let accepted = format!("this server accepts at most {} s of {content_type}", max.as_secs());
        match facts.content_duration() {
            ContentDuration::Milliseconds(ms) if Duration::from_millis(ms) > max => {
                let message = format!("the duration is {} s, but {accepted}", seconds(Duration::from_millis(ms)));
                Some(refused("media-too-long", message, RejectionKind::Unprocessable))
            }
            // A type that the operator has given a limit counts as having a duration, unless the file is
            // known to be a still.
            ContentDuration::No if self.requires_duration && is_named && facts.content.is_none() => {
                Some(unknown(&accepted))
            }
            ContentDuration::Unknown if self.requires_duration => Some(unknown(&accepted)),
            ContentDuration::Milliseconds(_) | ContentDuration::Unknown | ContentDuration::No => None,
        }
    }

    /// Returns the longest permitted duration of this type, if limited, and whether the limit names the type.
    fn max_duration_of(&self, content_type: &str) -> Option<(Duration, bool)> {
        match self.max_durations.iter().find(|(pattern, _)| pattern.fits(content_type)) {
            Some((_, max)) => max.map(|max| (max, true)),
            None => self.max_duration.map(|max| (max, false)),
        }
    }
}

fn unknown(accepted: &str) -> Failure {
    refused("duration-unknown", format!("the duration is unknown, but {accepted}"), RejectionKind::Unprocessable)
}

fn refused(code: &str, message: String, kind: RejectionKind) -> Failure {
    Failure { code: code.to_owned(), message, rejection: Some(kind) }
}

/// Returns whole seconds, rounded up.
fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Content, Image, Media};

    fn facts(content_type: &str, duration_ms: Option<u64>) -> Facts {
        let media = Media { duration_ms, tracks: vec![] };
        Facts { content_type: content_type.to_owned(), content: Some(Content::Media(media)) }
    }

    fn unread(content_type: &str) -> Facts {
        Facts { content_type: content_type.to_owned(), content: None }
    }

    fn pattern(text: &str) -> TypePattern {
        TypePattern::new(text).unwrap()
    }

    #[test]
    fn a_pattern_is_a_type_or_all_of_a_kind() {
        for (text, fitting, other) in [
            ("video/mp4", "video/mp4", "video/mp4v"),
            ("Video/MP4", "video/mp4", "audio/mp4"),
            ("video/*", "video/webm", "videos/webm"),
            ("image/svg+xml", "image/svg+xml", "image/svg"),
        ] {
            assert!(pattern(text).fits(fitting) && !pattern(text).fits(other), "{text}");
        }
        for wrong in ["", "video", "video/", "/mp4", "*/*", "*", "video/mp4; codecs=x", "video/m*", "a/b/c", "vidéo/x"]
        {
            assert_eq!(TypePattern::new(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_not_wanted_is_refused_with_its_reason() {
        let policy = ContentPolicy {
            allowed_types: vec![pattern("video/*"), pattern("audio/mp4")],
            max_duration: Some(Duration::from_secs(60)),
            max_sizes: vec![(pattern("video/webm"), 5), (pattern("video/*"), 10)],
            ..ContentPolicy::default()
        };
        let outcome = |facts: Facts, size| {
            let failure = policy.failure_of(&facts, size)?;
            assert!(failure.message.len() > 20 && failure.rejection.is_some(), "{failure:?}");
            Some((failure.code, failure.rejection?))
        };
        let refused = |code: &str, kind| Some((code.to_owned(), kind));
        assert_eq!(outcome(facts("video/mp4", Some(60_000)), 10), None);
        assert_eq!(outcome(facts("video/mp4", None), 10), None, "it does not say how long it is");
        assert_eq!(outcome(facts("audio/mp4", Some(1)), 1_000), None, "no size is set for it");
        assert_eq!(
            outcome(facts("video/mp4", Some(60_001)), 10),
            refused("media-too-long", RejectionKind::Unprocessable)
        );
        assert_eq!(outcome(facts("video/mp4", Some(1)), 11), refused("too-large-for-type", RejectionKind::TooLarge));
        assert_eq!(
            outcome(facts("video/webm", Some(1)), 6),
            refused("too-large-for-type", RejectionKind::TooLarge),
            "the first that fits"
        );
        assert_eq!(outcome(facts("text/plain", None), 1), refused("type-not-allowed", RejectionKind::WrongType));
        assert_eq!(outcome(unread("audio/mp3"), 1), refused("type-not-allowed", RejectionKind::WrongType));
        assert_eq!(ContentPolicy::default().failure_of(&facts("text/plain", Some(u64::MAX)), u64::MAX), None);
    }

    #[test]
    fn each_type_may_last_as_long_as_is_set_for_it() {
        let minutes = |count: u64| Some(Duration::from_secs(60 * count));
        let limits = vec![
            (pattern("audio/wav"), minutes(1)),
            (pattern("audio/*"), None),
            (pattern("video/webm"), minutes(3)),
            (pattern("application/mxf"), minutes(4)),
        ];
        let lenient = ContentPolicy { max_duration: minutes(2), max_durations: limits, ..ContentPolicy::default() };
        let strict = ContentPolicy { requires_duration: true, ..lenient.clone() };
        let code =
            |policy: &ContentPolicy, kind, ms| policy.failure_of(&facts(kind, ms), 1).map(|failure| failure.code);
        for (kind, limit_s) in [
            ("audio/wav", Some(60)),
            ("audio/mpeg", None),
            ("video/webm", Some(180)),
            ("video/mp4", Some(120)),
            ("application/mxf", Some(240)),
        ] {
            let most = limit_s.map_or(u64::MAX, |limit: u64| limit * 1_000);
            for policy in [&lenient, &strict] {
                assert_eq!(code(policy, kind, Some(most)), None, "{kind}");
                let longer = most.checked_add(1).map(|ms| code(policy, kind, Some(ms)));
                assert_eq!(longer, limit_s.map(|_| Some("media-too-long".to_owned())), "{kind}");
            }
            assert_eq!(code(&lenient, kind, None), None, "{kind}: it does not say, and need not");
            assert_eq!(code(&strict, kind, None), limit_s.map(|_| "duration-unknown".to_owned()), "{kind}");
        }
        let failure = strict.failure_of(&unread("video/mp4"), 1).expect("headers that cannot be read say nothing");
        assert_eq!(
            (failure.code.as_str(), failure.rejection),
            ("duration-unknown", Some(RejectionKind::Unprocessable))
        );
        assert_eq!(failure.message, "the duration is unknown, but this server accepts at most 120 s of video/mp4");
        assert_eq!(
            ContentPolicy { requires_duration: true, ..ContentPolicy::default() }.failure_of(&unread("video/mp4"), 1),
            None,
            "no maximum"
        );
    }

    #[test]
    fn animations_last_and_stills_do_not() {
        let limited = ContentPolicy { max_duration: Some(Duration::from_secs(60)), ..ContentPolicy::default() };
        let strict = ContentPolicy { requires_duration: true, ..limited.clone() };
        let named =
            ContentPolicy { max_durations: vec![(pattern("image/*"), Some(Duration::from_secs(5)))], ..strict.clone() };
        let image = |frames, duration_ms| {
            let image = Image { width: 1, height: 1, frames, duration_ms };
            Facts { content_type: "image/gif".to_owned(), content: Some(Content::Image(image)) }
        };
        for (facts, expected) in [
            (image(Some(1), None), [None, None, None]),
            (image(Some(9), Some(5_000)), [None, None, None]),
            (image(Some(9), Some(5_001)), [None, None, Some("media-too-long")]),
            (image(Some(9), Some(60_001)), [Some("media-too-long"); 3]),
            (image(Some(9), None), [None, Some("duration-unknown"), Some("duration-unknown")]),
            (image(None, None), [None, Some("duration-unknown"), Some("duration-unknown")]),
            (unread("image/gif"), [None, Some("duration-unknown"), Some("duration-unknown")]),
            (unread("image/jxl"), [None, Some("duration-unknown"), Some("duration-unknown")]),
            (unread("image/tiff"), [None, None, Some("duration-unknown")]),
            (unread("text/plain"), [None; 3]),
        ] {
            for (policy, expected) in [&limited, &strict, &named].into_iter().zip(expected) {
                let code = policy.failure_of(&facts, 1).map(|failure| failure.code);
                assert_eq!(code.as_deref(), expected, "{facts:?} {policy:?}");
            }
        }
    }
}
