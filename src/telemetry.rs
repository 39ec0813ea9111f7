//! Logging: destination and format.
//!
//! All log output goes to stderr; stdout is reserved for the lines that announce addresses. Times are in UTC.
//! Values are escaped like all printed text, so that each entry is one line and cannot control a terminal.

use std::error::Error as StdError;
use std::io::IsTerminal;
use std::{fmt, io};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogConfig, LogFormat};
use crate::terminal::{escaped, escaped_lines};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("log.level {level:?} is invalid")]
    Level {
        level: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("could not start logging: it has already been started")]
    Started(#[from] tracing::dispatcher::SetGlobalDefaultError),
}

/// Starts logging with these settings. Can be called once in a process.
pub fn init(log: &LogConfig) -> Result<(), Error> {
    // no-color.org: applies if set and not empty.
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colors = if io::stderr().is_terminal() && !plain { Colors::Ansi } else { Colors::None };
    Ok(tracing::dispatcher::set_global_default(dispatch(log, io::stderr, colors)?)?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colors {
    Ansi,
    None,
}

fn dispatch<W>(log: &LogConfig, to: W, colors: Colors) -> Result<Dispatch, Error>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The messages of the HTTP server at start add nothing to those of this program.
    let directives = format!("actix_server=warn,{}", log.level);
    let filter = EnvFilter::try_new(directives).map_err(|source| Error::Level { level: log.level.clone(), source })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(to).with_target(false);
    Ok(match log.format {
        LogFormat::Text => Dispatch::new(lines.compact().with_ansi(colors == Colors::Ansi).fmt_fields(Text).finish()),
        LogFormat::Json => Dispatch::new(lines.event_format(Json).finish()),
    })
}

/// Formats the message, and fields as `name=value`.
///
/// The formatter of the subscriber escapes only some terminal control characters, and no line breaks.
struct Text;

impl<'writer> FormatFields<'writer> for Text {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut words = Words { writer, is_first: true, written: Ok(()) };
        fields.record(&mut words);
        words.written
    }
}

struct Words<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    written: fmt::Result,
}

impl Words<'_> {
    fn put(&mut self, name: &str, value: &str) {
        if self.written.is_ok() {
            self.written = self.try_put(name, value);
        }
    }

    fn try_put(&mut self, name: &str, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        match (name, self.writer.has_ansi_escapes()) {
            ("message", _) => {}
            (_, true) => write!(self.writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?,
            (_, false) => write!(self.writer, "{name}=")?,
        }
        self.writer.write_str(&escaped(value))
    }
}

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put("message", value),
            name => self.put(name, &format!("{value:?}")),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn StdError + 'static)) {
        self.put(field.name(), &value.to_string());
        let causes = causes(value);
        if !causes.is_empty() {
            self.put(&format!("{}.sources", field.name()), &format!("[{}]", causes.join(", ")));
        }
    }
}

fn causes(error: &(dyn StdError + 'static)) -> Vec<String> {
    std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string).collect()
}

/// Formats one JSON object per line: time, level, message, fields, and the module of origin.
///
/// The formatter of the subscriber would print only the first message of an error. Here its causes are added,
/// under the same name as in the text format.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut line = Line(Map::new());
        line.put("timestamp", timestamp);
        line.put("level", event.metadata().level().as_str());
        event.record(&mut line);
        line.put("target", event.metadata().target());
        writeln!(writer, "{}", escaped_lines(&Value::Object(line.0).to_string()))
    }
}

struct Line(Map<String, Value>);

impl Line {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(field.name(), u64::try_from(value).unwrap_or(u64::MAX));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn StdError + 'static)) {
        self.put(field.name(), value.to_string());
        let causes = causes(value);
        if !causes.is_empty() {
            self.put(&format!("{}.sources", field.name()), causes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the log output of a server's start with this level, format and color setting.
    fn logged(level: &str, format: LogFormat, colors: Colors) -> String {
        let lines = Lines::default();
        let to = lines.clone();
        let log = LogConfig { level: level.to_owned(), format };
        let dispatch = dispatch(&log, move || to.clone(), colors).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!(size_bytes = 5, "an upload is complete");
            tracing::debug!("a message below the level");
        });
        let written = lines.0.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn text_is_the_time_in_utc_the_level_the_message_and_the_fields() {
        let line = logged("info", LogFormat::Text, Colors::None);
        let (time, rest) = line.split_once("  ").unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z'), "{line}");
        assert_eq!(rest, "INFO an upload is complete size_bytes=5\n");
        assert!(logged("info", LogFormat::Text, Colors::Ansi).contains('\u{1b}'));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let line = logged("info", LogFormat::Json, Colors::Ansi);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["message"], "an upload is complete");
        assert_eq!(object["size_bytes"], 5);
        assert_eq!(object["level"], "INFO");
        assert_eq!(object["target"], "longshore::telemetry::tests");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("could not write")]
    struct Failed(#[source] io::Error);

    #[test]
    fn json_tells_what_caused_an_error() {
        let lines = Lines::default();
        let to = lines.clone();
        let dispatch = dispatch(
            &LogConfig { level: "info".to_owned(), format: LogFormat::Json },
            move || to.clone(),
            Colors::None,
        );
        tracing::dispatcher::with_default(&dispatch.unwrap(), || {
            let failed = Failed(io::Error::other("the disk is gone"));
            let (error, took_ms) = (&failed as &dyn StdError, std::time::Duration::from_millis(7).as_millis());
            tracing::warn!(error, took_ms, answer = Some(5_u16), nothing = None::<u16>, share = 0.5, cut = true, "oh");
        });
        let line = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        let names: Vec<&String> = object.as_object().unwrap().keys().collect();
        let expected =
            ["timestamp", "level", "message", "error", "error.sources", "took_ms", "answer", "share", "cut", "target"];
        assert_eq!(names, expected);
        assert_eq!(object["error"], "could not write");
        assert_eq!(object["error.sources"], serde_json::json!(["the disk is gone"]));
        assert_eq!((&object["took_ms"], &object["answer"], &object["cut"]), (&7.into(), &5.into(), &true.into()));
        assert!(object["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    }

    /// Names, metadata and responses of receivers appear in messages and fields.
    #[test]
    fn a_line_is_one_line_and_controls_no_terminal() {
        let hostile = "a\u{1b}[2J\n2026-11-21 ERROR forged\u{202e}\u{9b}\u{2028}b";
        for (format, colors) in [(LogFormat::Text, Colors::None), (LogFormat::Json, Colors::Ansi)] {
            let lines = Lines::default();
            let to = lines.clone();
            let dispatch = dispatch(&LogConfig { level: "info".to_owned(), format }, move || to.clone(), colors);
            tracing::dispatcher::with_default(&dispatch.unwrap(), || {
                let _span = tracing::info_span!("s", spanned = %hostile).entered();
                let failed = Failed(io::Error::other(hostile));
                let error = &failed as &dyn StdError;
                tracing::warn!(error, shown = %hostile, debugged = ?hostile, text = hostile, "said {hostile}");
            });
            let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert_eq!(written.matches('\n').count(), 1, "{written:?}");
            assert_eq!(escaped(written.trim_end()), written.trim_end(), "{format:?}");
        }
    }

    #[test]
    fn the_level_decides_and_may_differ_by_part() {
        assert_eq!(logged("warn", LogFormat::Text, Colors::None), "");
        assert_eq!(logged("debug", LogFormat::Text, Colors::None).lines().count(), 2);
        assert_eq!(logged("warn,longshore::telemetry=info", LogFormat::Text, Colors::None).lines().count(), 1);
        let log = LogConfig { level: "a=b=c".to_owned(), format: LogFormat::Text };
        let error = dispatch(&log, io::sink, Colors::None).unwrap_err();
        assert_eq!(error.to_string(), "log.level \"a=b=c\" is invalid");
    }
}
