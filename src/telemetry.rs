//! Logging: where it goes and how it looks.
//!
//! Everything goes to stderr; stdout belongs to the one line that tells the address. Times are in UTC.

use std::io;
use std::io::IsTerminal;

use tracing::Dispatch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::Format;
use crate::config::Log;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not understand log.level {level:?}")]
    Level {
        level: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("could not start logging, it was started before")]
    Started(#[from] tracing::dispatcher::SetGlobalDefaultError),
}

/// Logs from now on as `log` says. Can be called once in a process.
pub fn init(log: &Log) -> Result<(), Error> {
    // no-color.org: set and not empty.
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colors = if io::stderr().is_terminal() && !plain { Colors::Ansi } else { Colors::None };
    Ok(tracing::dispatcher::set_global_default(dispatch(log, io::stderr, colors)?)?)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colors {
    Ansi,
    None,
}

fn dispatch<W>(log: &Log, to: W, colors: Colors) -> Result<Dispatch, Error>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The HTTP server's own remarks at start say nothing ours do not say better.
    let directives = format!("actix_server=warn,{}", log.level);
    let filter = EnvFilter::try_new(directives).map_err(|source| Error::Level { level: log.level.clone(), source })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(to).with_target(false);
    Ok(match log.format {
        Format::Text => Dispatch::new(lines.compact().with_ansi(colors == Colors::Ansi).finish()),
        Format::Json => Dispatch::new(lines.json().flatten_event(true).with_target(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::Mutex;

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

    /// What is written when a server starts, under this level and format.
    fn logged(level: &str, format: Format, colors: Colors) -> String {
        let lines = Lines::default();
        let to = lines.clone();
        let log = Log { level: level.to_owned(), format };
        let dispatch = dispatch(&log, move || to.clone(), colors).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!(size_bytes = 5, "an upload is complete");
            tracing::debug!("nobody asked for this");
        });
        let written = lines.0.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn text_is_the_time_in_utc_the_level_the_message_and_the_fields() {
        let line = logged("info", Format::Text, Colors::None);
        let (time, rest) = line.split_once("  ").unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.ends_with('Z'), "{line}");
        assert_eq!(rest, "INFO an upload is complete size_bytes=5\n");
        assert!(logged("info", Format::Text, Colors::Ansi).contains('\u{1b}'));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let line = logged("info", Format::Json, Colors::Ansi);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["message"], "an upload is complete");
        assert_eq!(object["size_bytes"], 5);
        assert_eq!(object["level"], "INFO");
        assert_eq!(object["target"], "longshore::telemetry::tests");
    }

    #[test]
    fn the_level_decides_and_may_differ_by_part() {
        assert_eq!(logged("warn", Format::Text, Colors::None), "");
        assert_eq!(logged("debug", Format::Text, Colors::None).lines().count(), 2);
        assert_eq!(logged("warn,longshore::telemetry=info", Format::Text, Colors::None).lines().count(), 1);
        let log = Log { level: "a=b=c".to_owned(), format: Format::Text };
        let error = dispatch(&log, io::sink, Colors::None).unwrap_err();
        assert_eq!(error.to_string(), "could not understand log.level \"a=b=c\"");
    }
}
