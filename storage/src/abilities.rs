//! The abilities of a store beyond the contract of every store.

/// The abilities of a store: a constant value for as long as the store is open. Callers read here what they
/// may request before they call; the fields about cost are for the choice of a store and its settings. The
/// conformance suite checks those that can be observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Bytes may be written to any position of a blob, in any order. Without it each write begins where the
    /// previous one ended, and a checkpoint reaches as far as the last.
    pub any_order: bool,
    /// Bytes that a checkpoint has covered may be written again. Bytes behind the token that a blob is opened
    /// with may be written again in any store.
    pub overwrites: bool,
    /// An open blob can be read. Without it a blob is sealed first.
    pub reads_open: bool,
    /// A newer epoch may open the blob of an older one at any time, which ends the older one's writer.
    /// Without it, the caller must know that the older writers were closed. Otherwise the newer epoch seals
    /// the blob and continues in another one: bytes that an older writer still adds are behind the sealed
    /// ones, and are never read.
    pub takes_over: bool,
    /// Blobs consist of parts of this size, except for the last. Bytes out of order begin at a border of
    /// parts or directly behind stored bytes. 1 if there are no parts.
    pub part_bytes: u64,
    /// A checkpoint at a multiple of this costs no more than the bytes it covers; at any other position it
    /// costs the store an additional small object. 1 if the position does not matter. This is a cost and no
    /// rule: a checkpoint may be requested anywhere, and the time of a checkpoint does not depend on it.
    pub checkpoint_bytes: u64,
    /// Joining blobs needs neither time in proportion to their bytes nor more space on the medium.
    pub joins_without_copying: bool,
    /// The store knows the free space of its medium.
    pub knows_free_space: bool,
    /// Maximum length of a [`Resume`](crate::Resume) token, for sizing the place where tokens are kept.
    pub max_resume_bytes: usize,
}
