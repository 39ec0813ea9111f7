//! Settings for detecting the media type of uploads, and for rejecting unwanted media.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::reader::{Parsed, Reader, duration_item};
use crate::config::units::{GIB, KIB, days, minutes, ms, parse_size};
use domain::policy::{ContentPolicy, TypePattern};
use engine::MediaSettings;

const DURATIONS: RangeInclusive<Duration> = Duration::ZERO..=days(365);

/// Reads the settings. Returns `None` if detection is off.
pub(super) fn read(from: &mut Reader) -> Option<MediaSettings> {
    let enabled = from.boolean("media.enabled");
    let media = MediaSettings {
        read_limit_bytes: from.size("media.read_limit", 64 * KIB..=GIB),
        timeout: from.duration("media.timeout", ms(100)..=minutes(1)),
        max_at_once: from.count("media.max_at_once", 1..=64),
        policy: ContentPolicy {
            allowed_types: from.list("media.allowed_types", patterns),
            max_duration: limit(from.duration("media.max_duration", DURATIONS)),
            max_durations: from.list("media.max_durations", durations),
            requires_duration: from.boolean("media.require_duration"),
            max_sizes: from.list("media.max_sizes", sizes),
        },
    };
    let judged = [
        ("media.allowed_types", media.policy.allowed_types.is_empty()),
        ("media.max_duration", media.policy.max_duration.is_none()),
        ("media.max_durations", media.policy.max_durations.is_empty()),
        ("media.max_sizes", media.policy.max_sizes.is_empty()),
    ];
    for (key, unused) in judged {
        from.require(enabled || unused, &[key, "media.enabled"], |others| {
            format!("requires media detection; it has no effect with {}", others.join(", "))
        });
    }
    let ContentPolicy { max_duration, max_durations, requires_duration, .. } = &media.policy;
    let is_limited = max_duration.is_some() || max_durations.iter().any(|(_, max)| max.is_some());
    let keys = ["media.require_duration", "media.max_duration", "media.max_durations"];
    from.require(is_limited || !requires_duration, &keys, |others| {
        format!("requires a maximum duration; there is none with {}", others.join(" and "))
    });
    enabled.then_some(media)
}

/// Returns the limit; zero means none.
fn limit(span: Duration) -> Option<Duration> {
    (!span.is_zero()).then_some(span)
}

fn patterns(items: Vec<&str>) -> Parsed<Vec<TypePattern>> {
    items.into_iter().map(pattern).collect()
}

fn pattern(item: &str) -> Parsed<TypePattern> {
    TypePattern::new(item)
        .ok_or_else(|| format!("{item:?} is not a media type; write a type such as video/mp4, or video/*"))
}

fn durations(items: Vec<&str>) -> Parsed<Vec<(TypePattern, Option<Duration>)>> {
    let hint = |item: &str| format!("{item:?} is not a type and a duration; write them such as video/*=2h");
    let judged = items.into_iter().map(|item| -> Parsed<_> {
        let (kind, span) = item.split_once('=').ok_or_else(|| hint(item))?;
        Ok((pattern(kind.trim())?, limit(duration_item(span.trim(), &DURATIONS)?)))
    });
    judged.collect()
}

fn sizes(items: Vec<&str>) -> Parsed<Vec<(TypePattern, u64)>> {
    let sized = |item: &str| {
        let (kind, size) = item.split_once('=')?;
        Some((kind.trim().to_owned(), parse_size(size.trim())?))
    };
    let hint = |item: &str| format!("{item:?} is not a type and a size; write them such as video/*=10GiB");
    let judged = items.into_iter().map(|item| sized(item).ok_or_else(|| hint(item)));
    judged.map(|sized| sized.and_then(|(kind, bytes)| Ok((pattern(&kind)?, bytes)))).collect()
}
