//! The digests of the bytes of an upload while they arrive, in order or in any order.

use crate::Inner;
use crate::command::EngineError;
use crate::digest::RunningDigests;
use crate::pieces::Pieces;
use crate::ranges::ScatteredState;
use domain::checksum::Digest;
use domain::upload::Upload;
use domain::write_rules::WriteOrder;

/// The digests of an upload, and other state that depends on the order of its bytes.
pub(super) enum UploadDigests {
    /// All wanted digests, over all bytes so far.
    InOrder(RunningDigests),
    /// Boxed: few uploads are in any order, and thousands may be receiving.
    Scattered(Box<ScatteredState>),
}

impl UploadDigests {
    /// Resumes from the committed state of an upload.
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

    /// Returns the digests of a full upload, as far as its committed state contains them.
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

    /// Returns the state for [`Self::resume`].
    pub(super) fn state(&self) -> Vec<u8> {
        match self {
            Self::InOrder(running) => running.state(),
            Self::Scattered(scattered) => scattered.pieces.state(),
        }
    }

    /// Returns the digests of a whole of this many bytes, as far as they are known.
    pub(super) fn whole(&self, length_bytes: u64) -> Vec<Digest> {
        match self {
            Self::InOrder(running) => running.clone().finish(),
            Self::Scattered(scattered) => scattered.pieces.whole(length_bytes).into_iter().collect(),
        }
    }

    /// Records that a checkpoint has begun.
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
