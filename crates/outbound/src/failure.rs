//! Classifies failed exchanges, whichever library reported the error.

use std::error::Error as StdError;
use std::io;

use domain::delivery::AttemptOutcome;

use crate::resolver::BlockedAddress;

/// Maximum length of stored notes and headers, in characters.
const NOTE_LIMIT: usize = 200;

/// Returns the class of an error, by the types in its chain of causes.
pub fn classify(error: &reqwest::Error) -> AttemptOutcome {
    if error.is_timeout() {
        return AttemptOutcome::Timeout;
    }
    if causes(error).any(<dyn StdError>::is::<BlockedAddress>) {
        return AttemptOutcome::Blocked;
    }
    if error.is_dns() {
        return AttemptOutcome::Dns;
    }
    causes(error).find_map(class_of_cause).unwrap_or(AttemptOutcome::Transport)
}

fn class_of_cause(cause: &(dyn StdError + 'static)) -> Option<AttemptOutcome> {
    if cause.is::<rustls::Error>() {
        return Some(AttemptOutcome::Tls);
    }
    if let Some(io) = cause.downcast_ref::<io::Error>() {
        return match io.kind() {
            io::ErrorKind::ConnectionRefused => Some(AttemptOutcome::Refused),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Some(AttemptOutcome::Reset),
            _ => None,
        };
    }
    // hyper's own error for a connection that was closed before a response. Its type cannot be named here, so
    // the text is compared; a test pins the text.
    (cause.source().is_none() && cause.to_string() == "connection closed before message completed")
        .then_some(AttemptOutcome::Reset)
}

/// Iterates over the error and its causes, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let outermost: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(outermost), |&error| {
        // `source` of an I/O error skips the error that it wraps and returns the source of that one.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source())
    })
}

pub fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map(|cause| shortened(&cause.to_string())).unwrap_or_default()
}

/// Truncates a text to the stored length.
pub fn shortened(text: &str) -> String {
    text.chars().take(NOTE_LIMIT).collect()
}
