//! What the bytes of an upload add up to while they come, in either order.

use crate::Inner;
use crate::command::EngineError;
use crate::digest::RunningDigests;
use crate::pieces::Pieces;
use crate::ranges::ScatteredState;
use domain::checksum::Digest;
use domain::upload::Upload;
use domain::write_rules::WriteOrder;

/// The digests of an upload, and what else is known only of bytes in one of the two orders.
pub(super) enum UploadDigests {
    /// Every digest that is wanted, of all bytes so far.
    InOrder(RunningDigests),
    /// Boxed: few uploads have it, and thousands may be receiving.
    Scattered(Box<ScatteredState>),
}

impl UploadDigests {
    /// Takes up what was committed of an upload.
    pub(super) async fn resume(inner: &Inner, upload: &Upload) -> Result<Self, EngineError> {
        match upload.write_order() {
            WriteOrder::InOrder => Ok(Self::InOrder(inner.running_digests(upload).await?)),
            WriteOrder::Any => {
                let pieces = Pieces::resume(&upload.record().running_digests).unwrap_or_else(|error| {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(upload = %upload.id(), error, "the digests are computed from the stored bytes in the end");
                    Pieces::default()
                });
                Ok(Self::Scattered(Box::new(ScatteredState::new(pieces))))
            }
        }
    }

    /// The digests of an upload that is full, as far as its committed state tells them.
    pub(super) fn committed(upload: &Upload) -> Vec<Digest> {
        let (record, size_bytes) = (upload.record(), upload.offset().get());
        let state = &record.running_digests;
        match upload.write_order() {
            WriteOrder::Any => Pieces::resume(state).unwrap_or_default().whole(size_bytes).into_iter().collect(),
            WriteOrder::InOrder if state.is_empty() => Vec::new(),
            WriteOrder::InOrder => {
                RunningDigests::resume(&record.wanted_digests, state).map(RunningDigests::finish).unwrap_or_default()
            }
        }
    }

    pub(super) fn is_in_order(&self) -> bool {
        matches!(self, Self::InOrder(_))
    }

    /// What [`Self::resume`] needs.
    pub(super) fn state(&self) -> Vec<u8> {
        match self {
            Self::InOrder(running) => running.state(),
            Self::Scattered(scattered) => scattered.pieces.state(),
        }
    }

    /// The digests of a whole of this many bytes, as far as they are known.
    pub(super) fn whole(&self, length_bytes: u64) -> Vec<Digest> {
        match self {
            Self::InOrder(running) => running.clone().finish(),
            Self::Scattered(scattered) => scattered.pieces.whole(length_bytes).into_iter().collect(),
        }
    }

    /// Notes that a checkpoint has begun, or is done.
    pub(super) fn on_begun(&mut self) {
        if let Self::Scattered(scattered) = self {
            scattered.on_begun();
        }
    }

    pub(super) fn on_committed(&mut self) {
        if let Self::Scattered(scattered) = self {
            scattered.on_committed();
        }
    }
}
