//! What happened to an upload, and who wants to hear of it.

use std::collections::HashSet;

use crate::checksum::Digest;
use crate::removal::DeletedBy;
use crate::report::Report;
use crate::size::{Length, Offset};
use crate::stage::Stage;
use crate::time::Timestamp;

crate::named! {
    /// One arrow of the stage diagram (see [`Stage`]), or news from within a stage.
    #[derive(PartialOrd, Ord)]
    pub enum EventKind {
        Created = "upload.created",
        Receiving = "upload.receiving",
        Progress = "upload.progress",
        Stalled = "upload.stalled",
        Resumed = "upload.resumed",
        Received = "upload.received",
        Verified = "upload.verified",
        Stored = "upload.stored",
        Completed = "upload.completed",
        Failed = "upload.failed",
        Expired = "upload.expired",
        Terminated = "upload.terminated",
        /// Retention or an operator has removed the file of a completed upload.
        Removed = "upload.removed",
        /// A backend has reported a stage of its own.
        Processing = "upload.processing",
        /// A test of an endpoint.
        Ping = "webhook.ping",
        /// A delivery was given up.
        Exhausted = "delivery.exhausted",
        /// An endpoint has been failing for long and will be disabled if it goes on.
        EndpointFailing = "endpoint.failing",
        EndpointDisabled = "endpoint.disabled",
    }
}

impl EventKind {
    /// Whether it tells of an upload; else it tells of the sending itself.
    pub const fn is_of_upload(self) -> bool {
        !matches!(self, Self::Ping | Self::Exhausted | Self::EndpointFailing | Self::EndpointDisabled)
    }
}

/// Something that happened to one upload, with what was true right after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counts the events of this upload from 1, without a gap.
    pub sequence: u64,
    pub kind: EventKind,
    pub at: Timestamp,
    pub stage: Stage,
    pub offset: Offset,
    pub length: Option<Length>,
    /// Digests of the whole upload, once they are known.
    pub digests: Vec<Digest>,
    pub details: Details,
}

/// What only some kinds of events tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// What a backend has reported, if that is the event.
    pub report: Option<Report>,
    /// Who deleted the upload, or removed its file.
    pub by: Option<DeletedBy>,
    /// Where the file of a completed upload is, for programs on the same machine that are to know.
    pub file: Option<String>,
}

impl Details {
    /// Returns the details of a deletion.
    pub fn by(by: DeletedBy) -> Self {
        Self { by: Some(by), ..Self::default() }
    }
}

/// Which events an endpoint wants: names, or prefixes ending in `.*`, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter(Vec<String>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no event {0:?}")]
pub struct NoSuchEvent(String);

impl EventFilter {
    /// Fails when a pattern can match no event at all.
    pub fn new(mut patterns: Vec<String>) -> Result<Self, NoSuchEvent> {
        let mut seen = HashSet::new();
        patterns.retain(|pattern| seen.insert(pattern.clone()));
        for pattern in &patterns {
            if !EventKind::ALL.into_iter().any(|kind| matches(pattern, kind.name())) {
                return Err(NoSuchEvent(pattern.clone()));
            }
        }
        Ok(Self(patterns))
    }

    /// Every event of uploads but `upload.progress`, which must be
    /// asked for (webhooks C1: off by default).
    pub fn all_but_progress() -> Self {
        let wanted = EventKind::ALL.into_iter().filter(|kind| kind.is_of_upload() && *kind != EventKind::Progress);
        Self(wanted.map(|kind| kind.name().to_owned()).collect())
    }

    pub fn wants(&self, kind: EventKind) -> bool {
        self.0.iter().any(|pattern| matches(pattern, kind.name()))
    }

    pub fn patterns(&self) -> &[String] {
        &self.0
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) => prefix.ends_with('.') && name.starts_with(prefix),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(patterns: &[&str]) -> Result<EventFilter, NoSuchEvent> {
        EventFilter::new(patterns.iter().map(|pattern| (*pattern).to_owned()).collect())
    }

    #[test]
    fn a_filter_matches_names_and_prefixes() {
        let exact = filter(&["upload.completed", "upload.failed"]).unwrap();
        assert!(exact.wants(EventKind::Completed) && exact.wants(EventKind::Failed));
        assert!(!exact.wants(EventKind::Created));
        for kind in EventKind::ALL {
            assert!(filter(&["*"]).unwrap().wants(kind), "{kind:?}");
            assert_eq!(filter(&["upload.*"]).unwrap().wants(kind), kind.is_of_upload(), "{kind:?}");
        }
        assert!(filter(&[]).is_ok_and(|none| !none.wants(EventKind::Created)));
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_refused() {
        for wrong in ["upload.complete", "upload", "upload.c*", "uploads.*", ""] {
            assert_eq!(filter(&[wrong]), Err(NoSuchEvent(wrong.to_owned())));
        }
    }

    #[test]
    fn progress_must_be_asked_for() {
        let filter = EventFilter::all_but_progress();
        for kind in EventKind::ALL {
            assert_eq!(filter.wants(kind), kind.is_of_upload() && kind != EventKind::Progress);
            assert_eq!(EventKind::by_name(kind.name()), Some(kind));
        }
    }
}
