//! Bytes that are sent again, compared with those that are stored.

use futures::StreamExt;

use crate::domain::id::UploadId;
use crate::engine::Inner;
use crate::engine::blob_key;

impl Inner {
    /// The first place, from `start` on, where the stored bytes of an upload differ from `bytes`.
    ///
    /// Reads no further than these reach, a chunk at a time: what it holds is less than what it is given.
    pub(super) async fn first_difference(
        &self,
        id: UploadId,
        start: u64,
        bytes: &[u8],
    ) -> storage::Result<Option<u64>> {
        let end = start + bytes.len() as u64;
        let mut stored = self.blobs.read(&blob_key(id), start..end).await?;
        let (mut at, mut rest) = (start, bytes);
        while let Some(chunk) = stored.next().await {
            let chunk = chunk?;
            let (ours, after) = rest.split_at(chunk.len().min(rest.len()));
            if let Some(differs) = ours.iter().zip(&chunk).position(|(ours, theirs)| ours != theirs) {
                return Ok(Some(at + differs as u64));
            }
            (at, rest) = (at + ours.len() as u64, after);
        }
        Ok(None)
    }
}
