//! Wall-clock time as the rules use it: whole milliseconds since 1970, UTC.

use std::fmt;
use std::time::Duration;

/// An instant on the wall clock, in whole milliseconds. Never used to measure durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_unix_ms(unix_ms: i64) -> Self {
        Self(unix_ms)
    }

    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// Returns this instant plus `span`, clamped to the largest representable instant.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(signed_ms(span)))
    }

    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(signed_ms(span)))
    }

    /// Returns the time since `earlier`, or zero if `earlier` is not before this instant.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Returns the day in UTC as a path, such as `2026/11/21`.
    pub fn day_path(self) -> String {
        self.zoned().strftime("%Y/%m/%d").to_string()
    }

    /// Parses RFC 3339 with any offset, such as `2026-11-21T22:31:30Z`.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|at| Self(at.as_millisecond()))
    }

    fn zoned(self) -> jiff::Timestamp {
        let bounded = self.0.clamp(jiff::Timestamp::MIN.as_millisecond(), jiff::Timestamp::MAX.as_millisecond());
        jiff::Timestamp::from_millisecond(bounded).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
}

/// Prints RFC 3339 in UTC with milliseconds: `2026-11-21T22:31:30.123Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.zoned())
    }
}

/// Returns a span in whole milliseconds.
pub fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn signed_ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_rfc3339() {
        let at = Timestamp::from_unix_ms(1_795_300_290_050);
        assert_eq!(at.to_string(), "2026-11-21T22:31:30.050Z");
        assert_eq!(Timestamp::parse_rfc3339(&at.to_string()), Some(at));
        assert_eq!(Timestamp::parse_rfc3339("2026-11-21T23:31:30.05+01:00"), Some(at));
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
        assert_eq!(at.day_path(), "2026/11/21");
    }

    #[test]
    fn differences_never_go_below_zero() {
        let early = Timestamp::from_unix_ms(5);
        assert_eq!(early.since(Timestamp::from_unix_ms(9)), Duration::ZERO);
        assert_eq!(Timestamp::from_unix_ms(9).since(early), Duration::from_millis(4));
    }
}
