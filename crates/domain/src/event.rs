//! Events of uploads and of delivery itself, and the filters that endpoints subscribe with.

use std::collections::HashSet;

use crate::checksum::Digest;
use crate::removal::DeletedBy;
use crate::report::Report;
use crate::size::{Length, Offset};
use crate::stage::Stage;
use crate::time::Timestamp;

crate::named! {
    /// The kind of an event: a transition of the stage diagram (see [`Stage`]), a change within a stage, or a
    /// change in the delivery of events.
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
        /// Retention or an operator removed the file of a completed upload.
        Removed = "upload.removed",
        /// A backend reported a processing stage.
        Processing = "upload.processing",
        /// A test of an endpoint.
        Ping = "webhook.ping",
        /// A delivery failed for good.
        Exhausted = "delivery.exhausted",
        /// An endpoint has been failing for a long time and will be disabled if that continues.
        EndpointFailing = "endpoint.failing",
        EndpointDisabled = "endpoint.disabled",
    }
}

impl EventKind {
    /// Reports whether this kind is about an upload. The other kinds are about delivery itself.
    pub const fn is_of_upload(self) -> bool {
        !matches!(self, Self::Ping | Self::Exhausted | Self::EndpointFailing | Self::EndpointDisabled)
    }
}

/// A change of one upload, with the state of the upload right after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The number of the event within its upload: from 1, without gaps.
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

/// Fields that only some kinds of events have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// The backend's report that caused the event.
    pub report: Option<Report>,
    /// The party that deleted the upload or removed its file.
    pub by: Option<DeletedBy>,
    /// The location of the file of a completed upload, for programs on the same machine; set only if the
    /// configuration publishes it.
    pub file: Option<String>,
}

impl Details {
    /// Returns the details of a deletion.
    pub fn by(by: DeletedBy) -> Self {
        Self { by: Some(by), ..Self::default() }
    }
}

/// The events that an endpoint subscribes to: names, prefixes ending in `.*`, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter(Vec<String>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no event {0:?}")]
pub struct NoSuchEvent(String);

impl EventFilter {
    /// Fails if a pattern matches no event.
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

    /// Returns a filter for every event of uploads except `upload.progress`, which must be requested
    /// explicitly (webhooks C1: off by default).
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
