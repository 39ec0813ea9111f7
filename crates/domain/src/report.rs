//! Reports by backends about an upload: processing stages, such as `transcoding`, 40 percent.

use std::time::Duration;

use crate::stage::{Ended, Stage};
use crate::time::Timestamp;

/// The maximum number of processing stages that backends may report for one upload.
pub(super) const MAX_STAGES: usize = 32;

const MAX_NAME_LENGTH: usize = 64;

pub const MAX_MESSAGE_CHARS: usize = 500;

/// The minimum time between two events for reports on one stage that differ only in their percentage.
pub const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// The latest report about one processing stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The name of the stage, unique within an upload.
    pub name: String,
    /// From 0 to 100; `None` if the backend does not know.
    pub percent: Option<u8>,
    /// A sentence for display.
    pub message: Option<String>,
    pub at: Timestamp,
    /// The time of the last event about this stage.
    pub published_at: Timestamp,
}

/// A valid report before it is applied. Every recipient can rely on its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReport {
    name: String,
    percent: Option<u8>,
    message: Option<String>,
}

/// The invalid part of a report. The message describes the valid form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReport {
    #[error("the name of a stage must have 1 to {MAX_NAME_LENGTH} characters: a-z, 0-9, `_`, `.` and `-`")]
    Name,
    #[error("percent must be a whole number from 0 to 100")]
    Percent,
    #[error("a message must have 1 to {MAX_MESSAGE_CHARS} characters, none of them a control character")]
    Message,
}

/// The reason why an upload accepts no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportRejected {
    #[error("this upload has {} and accepts no more reports", .0.past())]
    Ended(Ended),
    #[error("this upload is {}; stages can be reported after all its bytes are received", .0.name())]
    TooEarly(Stage),
    #[error("{MAX_STAGES} stages of this upload have been reported, which is the limit; report one of these stages")]
    TooMany,
}

impl NewReport {
    pub fn new(name: String, percent: Option<u64>, message: Option<String>) -> Result<Self, InvalidReport> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'.' | b'-');
        if name.is_empty() || name.len() > MAX_NAME_LENGTH || !name.bytes().all(fits) {
            return Err(InvalidReport::Name);
        }
        let percent = match percent {
            Some(percent) => {
                Some(u8::try_from(percent).ok().filter(|percent| *percent <= 100).ok_or(InvalidReport::Percent)?)
            }
            None => None,
        };
        let fits = |text: &String| {
            !text.is_empty() && text.chars().count() <= MAX_MESSAGE_CHARS && !text.chars().any(char::is_control)
        };
        if !message.as_ref().is_none_or(fits) {
            return Err(InvalidReport::Message);
        }
        Ok(Self { name, percent, message })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compares this report with the previous one about the stage, and returns its effect.
    pub(super) fn effect_after(&self, before: Option<&Report>, now: Timestamp) -> ReportEffect {
        match before {
            None => ReportEffect::Event,
            Some(before) if before.percent == self.percent && before.message == self.message => ReportEffect::Nothing,
            Some(before) if before.message == self.message && self.percent != Some(100) && !is_due(before, now) => {
                ReportEffect::RecordOnly
            }
            Some(_) => ReportEffect::Event,
        }
    }

    pub(super) fn into_report(self, at: Timestamp, published_at: Timestamp) -> Report {
        let Self { name, percent, message } = self;
        Report { name, percent, message, at, published_at }
    }
}

/// The effect of a report, given the reports before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReportEffect {
    Nothing,
    /// The report is recorded without an event, because the last event was less than [`PUBLISH_EVERY`] ago.
    RecordOnly,
    Event,
}

fn is_due(before: &Report, now: Timestamp) -> bool {
    // A clock that was set back must not keep events from being published.
    now < before.published_at || now.since(before.published_at) >= PUBLISH_EVERY
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);

    fn new(percent: Option<u64>, message: Option<&str>) -> NewReport {
        NewReport::new("transcoding".to_owned(), percent, message.map(str::to_owned)).unwrap()
    }

    #[test]
    fn only_what_fits_is_a_report() {
        let named = |name: &str| NewReport::new(name.to_owned(), None, None).map(|_| ());
        for name in ["a", "transcoding", "hls_720p.v2-x", &"a".repeat(64)] {
            assert_eq!(named(name), Ok(()), "{name}");
        }
        for name in ["", "A", "two words", "ü", "a/b", "a\n", &"a".repeat(65)] {
            assert_eq!(named(name), Err(InvalidReport::Name), "{name}");
        }
        let at = |percent| NewReport::new("a".to_owned(), Some(percent), None).map(|report| report.percent);
        assert_eq!((at(0), at(100)), (Ok(Some(0)), Ok(Some(100))));
        assert_eq!((at(101), at(u64::MAX)), (Err(InvalidReport::Percent), Err(InvalidReport::Percent)));
        let saying = |text: &str| NewReport::new("a".to_owned(), None, Some(text.to_owned())).map(|_| ());
        for message in ["x", "\u{1f389} done \u{2014} \"so\"", &"ü".repeat(500)] {
            assert_eq!(saying(message), Ok(()), "{message}");
        }
        for message in ["", "two\nlines", "\u{7f}", "\u{85}", "\0", &"ü".repeat(501)] {
            assert_eq!(saying(message), Err(InvalidReport::Message), "{message:?}");
        }
    }

    #[test]
    fn percentages_are_told_once_a_second_and_everything_else_at_once() {
        let before = new(Some(40), Some("so")).into_report(NOW, NOW);
        let ms = |ms: i64| Timestamp::from_unix_ms(NOW.unix_ms() + ms);
        for (report, at, expected) in [
            (new(Some(40), Some("so")), ms(5_000), ReportEffect::Nothing),
            (new(Some(41), Some("so")), ms(0), ReportEffect::RecordOnly),
            (new(Some(41), Some("so")), ms(999), ReportEffect::RecordOnly),
            (new(None, Some("so")), ms(999), ReportEffect::RecordOnly),
            (new(Some(41), Some("so")), ms(1_000), ReportEffect::Event),
            (new(Some(41), Some("so")), ms(-1), ReportEffect::Event),
            (new(Some(100), Some("so")), ms(1), ReportEffect::Event),
            (new(Some(40), Some("else")), ms(1), ReportEffect::Event),
            (new(Some(40), None), ms(1), ReportEffect::Event),
        ] {
            assert_eq!(report.effect_after(Some(&before), at), expected, "{report:?} at {at}");
        }
        assert_eq!(new(None, None).effect_after(None, NOW), ReportEffect::Event);
    }
}
