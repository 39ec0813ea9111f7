//! Level and format of the log.

use tracing_subscriber::EnvFilter;

use crate::config::reader::{Parsed, Reader};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives of `tracing`: a level, or a comma-separated list with levels for modules.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogConfig {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self { level: from.text("log.level", level), format: from.text("log.format", format) }
    }
}

fn level(text: &str) -> Parsed<String> {
    let hint = "not a level; write error, warn, info, debug or trace, or levels for parts such as \
                info,longshore_webhook=debug";
    let known = text.split(',').all(is_level_or_part) && EnvFilter::try_new(text).is_ok();
    known.then(|| text.to_owned()).ok_or_else(|| hint.to_owned())
}

/// Checks one directive. The filter would take an unknown word for the name of a module and then log nothing
/// else, so a module requires its `=level` here.
fn is_level_or_part(directive: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
    LEVELS.contains(&level.trim().to_ascii_lowercase().as_str())
}

fn format(text: &str) -> Parsed<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("not a format; write text or json".to_owned()),
    }
}
