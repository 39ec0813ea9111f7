//! Checks that the storage can take the announced bytes: in their order, and within the free space.

use crate::Inner;
use crate::blobs::current_key;
use crate::bookings::Space;
use crate::command::EngineError;
use domain::upload::Upload;
use storage::Abilities;

/// Space that uploads leave on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceSettings {
    /// Minimum free space on the storage, in bytes, for everything else.
    pub min_free_bytes: u64,
    /// Disk space is low when less than this is free beside the minimum.
    pub low_free_bytes: u64,
    /// Maximum share of the free space that unfinished uploads may keep from others, in percent; at most 100.
    pub max_booked_percent: u64,
}

impl Inner {
    /// Reports whether uploads may be filled in any order. That needs a storage on which bytes sent again can
    /// be compared with the stored ones, and bytes that do not count may be written again.
    pub(super) fn takes_any_order(&self) -> bool {
        let Abilities { any_order, overwrites, reads_open, .. } = self.abilities;
        any_order && overwrites && reads_open
    }

    /// Checks that `bytes` of a new upload fit beside the reserve that must stay free and the bookings of
    /// others.
    pub(super) async fn check_space(&self, bytes: u64) -> Result<(), EngineError> {
        match self.space(None).await? {
            Some(space) if !self.bookings.admit(bytes, space) => Err(EngineError::NoSpace),
            _ => Ok(()),
        }
    }

    /// Checks that an upload may continue to receive: the reserve is free, or the blocks set aside for the
    /// upload hold the rest of it.
    pub(super) async fn check_space_to_resume(&self, upload: &Upload) -> Result<(), EngineError> {
        let free = self.available(None).await?;
        let Some(free) = free.filter(|free| *free < self.settings.space.min_free_bytes) else { return Ok(()) };
        let own = self.available(Some(upload)).await?.map_or(0, |with_own| with_own.saturating_sub(free));
        let rest = upload.length().map(|length| length.get().saturating_sub(upload.received_bytes()));
        if rest.is_some_and(|rest| own >= rest) { Ok(()) } else { Err(EngineError::NoSpace) }
    }

    /// Checks that the next `count` bytes of an upload fit, and the rest of it where its length is known.
    /// Blocks that it already occupies are its own.
    pub(super) async fn check_space_for(&self, upload: &Upload, count: u64) -> Result<(), EngineError> {
        let rest = upload.length().map_or(count, |length| length.get().saturating_sub(upload.received_bytes()));
        match self.space(Some(upload)).await? {
            Some(space) if !self.bookings.admit_for(upload, rest.max(count), space) => Err(EngineError::NoSpace),
            _ => Ok(()),
        }
    }

    /// Returns the available space, for new uploads or for the given one. `None` if the medium does not know
    /// it.
    pub(super) async fn space(&self, to: Option<&Upload>) -> Result<Option<Space>, EngineError> {
        let Some(available) = self.available(to).await? else { return Ok(None) };
        let SpaceSettings { min_free_bytes, max_booked_percent, .. } = self.settings.space;
        let spare_bytes = available.checked_sub(min_free_bytes).ok_or(EngineError::NoSpace)?;
        Ok(Some(Space { spare_bytes, booked_percent: max_booked_percent }))
    }

    /// Returns the free space of the storage, if it knows it: for new uploads, or for the given upload
    /// including the blocks set aside for it.
    pub(super) async fn available(&self, to: Option<&Upload>) -> Result<Option<u64>, EngineError> {
        if !self.abilities.knows_free_space {
            return Ok(None);
        }
        let own = to
            .map(|upload| (current_key(upload), upload.received_bytes().saturating_sub(upload.generations().start())));
        let holding =
            own.as_ref().map(|(key, received_bytes)| storage::OpenBlob { key, received_bytes: *received_bytes });
        self.blobs.available(holding).await.map_err(EngineError::storage)
    }
}
