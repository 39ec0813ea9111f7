//! What an exchange that failed is called, whatever library failed it.

use std::error::Error as StdError;
use std::io;

use domain::delivery::AttemptOutcome;

use crate::resolver::BlockedAddress;

/// The length of notes and of headers that are kept, in characters.
const NOTE_LIMIT: usize = 200;

/// The class of an error, by the types in its chain of causes.
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
    // hyper's own error for a connection that was closed instead of an answer. Its type is not ours
    // to name, hence the text; a test pins it.
    (cause.source().is_none() && cause.to_string() == "connection closed before message completed")
        .then_some(AttemptOutcome::Reset)
}

/// The error and everything beneath it, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let outermost: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(outermost), |&error| {
        // What an I/O error wraps is not its source, only that one's source is.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source())
    })
}

pub fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map(|cause| shortened(&cause.to_string())).unwrap_or_default()
}

/// Returns what of a text is kept.
pub fn shortened(text: &str) -> String {
    text.chars().take(NOTE_LIMIT).collect()
}
