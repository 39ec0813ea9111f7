//! Durations and sizes in the notation of people.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use domain::size::MAX_BYTES;
use domain::time::milliseconds;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;

pub(super) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(super) const fn minutes(count: u64) -> Duration {
    secs(60 * count)
}

pub(super) const fn hours(count: u64) -> Duration {
    minutes(60 * count)
}

pub(super) const fn days(count: u64) -> Duration {
    hours(24 * count)
}

/// Each unit of time in milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Each unit of size in bytes; the binary ones first, because sizes are printed in them.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
    ("TiB", TIB),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads a whole number and a unit, such as `500ms` or `24h`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (count, unit) = split(text)?;
    let (_, millis) = TIME_UNITS.into_iter().find(|(name, _)| *name == unit)?;
    count.checked_mul(millis).map(Duration::from_millis)
}

/// Reads a whole number and a unit in any letter case, such as `64MiB` or `1 GB`, or a plain number of bytes.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (count, unit) = split(text)?;
    let unit = if unit.is_empty() { "B" } else { unit };
    let (_, bytes) = SIZE_UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    count.checked_mul(bytes).filter(|total| *total <= MAX_BYTES)
}

/// Splits a text into its leading number and the rest.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    number.parse().ok().map(|number| (number, unit.trim_start_matches(' ')))
}

/// Prints a duration in the largest unit that takes no fraction; a single day is `24h`.
pub(super) fn duration_text(span: Duration) -> String {
    let millis = milliseconds(span);
    let fits = |unit: u64| millis.is_multiple_of(unit) && (unit < 86_400_000 || millis > unit);
    match TIME_UNITS.into_iter().rev().find(|(_, unit)| fits(*unit)) {
        Some((name, unit)) if millis > 0 => format!("{}{name}", millis / unit),
        _ => "0s".to_owned(),
    }
}

/// Prints a size in the largest binary unit that takes no fraction.
pub(super) fn size_text(bytes: u64) -> String {
    let binary = SIZE_UNITS[..5].iter().rev();
    match binary.into_iter().find(|(_, unit)| bytes.is_multiple_of(*unit)) {
        Some((name, unit)) if bytes > 0 => format!("{}{name}", bytes / unit),
        _ => "0B".to_owned(),
    }
}

/// Formats a range: `from 1s to 1h`.
pub(super) fn range_text<T>(range: &RangeInclusive<T>, text: impl Fn(&T) -> String) -> String {
    format!("from {} to {}", text(range.start()), text(range.end()))
}

pub(super) fn number_text(number: &impl Display) -> String {
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        for (text, expected) in [
            ("500ms", Some(ms(500))),
            ("60s", Some(secs(60))),
            ("5m", Some(minutes(5))),
            ("24h", Some(days(1))),
            ("7d", Some(days(7))),
            ("1 h", Some(hours(1))),
            ("0s", Some(Duration::ZERO)),
            ("60", None),
            ("s", None),
            ("1.5h", None),
            ("-1s", None),
            ("+1s", None),
            ("1S", None),
            ("1h30m", None),
            ("5 bananas", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
            ("", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_a_whole_number_and_perhaps_a_unit() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1048576", Some(MIB)),
            ("512B", Some(512)),
            ("64MiB", Some(64 * MIB)),
            ("64mib", Some(64 * MIB)),
            ("1GB", Some(1_000_000_000)),
            ("8kB", Some(8_000)),
            ("2 TiB", Some(2 * TIB)),
            ("9223372036854775807", Some(MAX_BYTES)),
            ("9223372036854775808", None),
            ("9000000TiB", None),
            ("1.5GB", None),
            ("64M", None),
            ("-1", None),
            ("MiB", None),
            ("", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        for (span, expected) in [
            (Duration::ZERO, "0s"),
            (ms(1), "1ms"),
            (ms(1_500), "1500ms"),
            (secs(90), "90s"),
            (hours(1), "1h"),
            (days(1), "24h"),
            (days(2), "2d"),
            (days(365), "365d"),
        ] {
            assert_eq!(duration_text(span), expected);
            assert_eq!(parse_duration(expected), Some(span));
        }
        for (bytes, expected) in [(0, "0B"), (1, "1B"), (KIB, "1KiB"), (1_500, "1500B"), (900 * TIB, "900TiB")] {
            assert_eq!(size_text(bytes), expected);
            assert_eq!(parse_size(expected), Some(bytes));
        }
    }
}
