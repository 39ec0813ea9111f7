//! Whether the storage can take what is announced: in that order, and for lack of space.

use crate::Inner;
use crate::blobs::current_key;
use crate::bookings::Space;
use crate::command::EngineError;
use domain::upload::Upload;
use storage::Abilities;

/// Space that uploads leave on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceSettings {
    /// What the storage must keep free for everything else.
    pub min_free_bytes: u64,
    /// Disk space is low when less than this is free beside that.
    pub low_free_bytes: u64,
    /// How much of the free space unfinished uploads may keep from others, in percent; 100 at most.
    pub max_booked_percent: u64,
}

impl Inner {
    /// Whether uploads may be filled in any order. Bytes that are sent again are compared with those that are
    /// there, and those with a checksum may replace them; a newer writer fills the gaps that an older one has
    /// left.
    pub(super) fn takes_any_order(&self) -> bool {
        let Abilities { any_order, overwrites, reads_open, takes_over, .. } = self.abilities;
        any_order && overwrites && reads_open && takes_over
    }

    /// Whether `bytes` of something new fit beside the space that must stay free and what others have booked.
    pub(super) async fn check_space(&self, bytes: u64) -> Result<(), EngineError> {
        match self.space(None).await? {
            Some(space) if !self.bookings.admit(bytes, space) => Err(EngineError::NoSpace),
            _ => Ok(()),
        }
    }

    /// Whether an upload may go on being received: the room to be kept is there, or it takes none that is not
    /// its own.
    pub(super) async fn check_space_to_resume(&self, upload: &Upload) -> Result<(), EngineError> {
        let free = self.available(None).await?;
        let Some(free) = free.filter(|free| *free < self.settings.space.min_free_bytes) else { return Ok(()) };
        let own = self.available(Some(upload)).await?.map_or(0, |with_own| with_own.saturating_sub(free));
        let rest = upload.length().map(|length| length.get().saturating_sub(upload.received_bytes()));
        if rest.is_some_and(|rest| own >= rest) { Ok(()) } else { Err(EngineError::NoSpace) }
    }

    /// Whether the next `count` bytes of an upload fit, and the rest of it where its length is known. Blocks
    /// that it occupies already are its own.
    pub(super) async fn check_space_for(&self, upload: &Upload, count: u64) -> Result<(), EngineError> {
        let rest = upload.length().map_or(count, |length| length.get().saturating_sub(upload.received_bytes()));
        match self.space(Some(upload)).await? {
            Some(space) if !self.bookings.admit_for(upload, rest.max(count), space) => Err(EngineError::NoSpace),
            _ => Ok(()),
        }
    }

    /// The space there is, for anything new or for an upload. `None`: the medium does not know.
    pub(super) async fn space(&self, to: Option<&Upload>) -> Result<Option<Space>, EngineError> {
        let Some(available) = self.available(to).await? else { return Ok(None) };
        let SpaceSettings { min_free_bytes, max_booked_percent, .. } = self.settings.space;
        let spare_bytes = available.checked_sub(min_free_bytes).ok_or(EngineError::NoSpace)?;
        Ok(Some(Space { spare_bytes, booked_percent: max_booked_percent }))
    }

    /// The room the storage has, if it knows: for anything new, or for an upload, with what is set aside for
    /// it.
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
