//! What uploads are looked into for, and which are not wanted.

use std::time::Duration;

use crate::config::reader::Judged;
use crate::config::reader::Reader;
use crate::config::units::GIB;
use crate::config::units::KIB;
use crate::config::units::days;
use crate::config::units::minutes;
use crate::config::units::ms;
use crate::config::units::parse_size;
use crate::domain::policy::Policy;
use crate::domain::policy::TypePattern;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    pub enabled: bool,
    pub read_limit_bytes: u64,
    pub timeout: Duration,
    pub max_at_once: usize,
    pub policy: Policy,
}

impl Media {
    pub(super) fn read(from: &mut Reader) -> Self {
        let max_duration = from.duration("media.max_duration", Duration::ZERO..=days(365));
        let media = Self {
            enabled: from.boolean("media.enabled"),
            read_limit_bytes: from.size("media.read_limit", 64 * KIB..=GIB),
            timeout: from.duration("media.timeout", ms(100)..=minutes(1)),
            max_at_once: from.count("media.max_at_once", 1..=64),
            policy: Policy {
                allowed_types: from.list("media.allowed_types", patterns),
                max_duration: (!max_duration.is_zero()).then_some(max_duration),
                max_sizes: from.list("media.max_sizes", sizes),
            },
        };
        let judged = [
            ("media.allowed_types", media.policy.allowed_types.is_empty()),
            ("media.max_duration", media.policy.max_duration.is_none()),
            ("media.max_sizes", media.policy.max_sizes.is_empty()),
        ];
        for (key, unused) in judged {
            from.require(media.enabled || unused, &[key, "media.enabled"], |others| {
                format!("needs the bytes to be looked into; it has no use with {}", others.join(", "))
            });
        }
        media
    }
}

fn patterns(items: Vec<&str>) -> Judged<Vec<TypePattern>> {
    items.into_iter().map(pattern).collect()
}

fn pattern(item: &str) -> Judged<TypePattern> {
    TypePattern::new(item)
        .ok_or_else(|| format!("{item:?} is not a media type; write one such as video/mp4, or video/*"))
}

fn sizes(items: Vec<&str>) -> Judged<Vec<(TypePattern, u64)>> {
    let limit = |item: &str| {
        let (kind, size) = item.split_once('=')?;
        Some((kind.trim().to_owned(), parse_size(size.trim())?))
    };
    let hint = |item: &str| format!("{item:?} is not a type and a size; write them such as video/*=10GiB");
    let judged = items.into_iter().map(|item| limit(item).ok_or_else(|| hint(item)));
    judged.map(|limit| limit.and_then(|(kind, bytes)| Ok((pattern(&kind)?, bytes)))).collect()
}
