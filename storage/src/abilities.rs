//! What a store can do beyond what every store does.

/// What its users may ask of a store. A value, the same for as long as the store is open. What a call may not
/// do they read here before they ask; what one costs is told for who chooses a store and its settings. The
/// conformance suite holds the store to what can be seen of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Bytes may be written to any place of a blob, in any order. Without it each write begins where the one
    /// before it ended, and a checkpoint reaches as far as the last.
    pub any_order: bool,
    /// Bytes that a checkpoint has covered may be written again. Those behind the token that a
    /// blob is opened with may be in any store.
    pub overwrites: bool,
    /// An open blob can be read. Without it a blob is sealed first.
    pub reads_open: bool,
    /// A newer epoch may open the blob of an older one, which ends the older one's writer. Without it the
    /// newer one seals that blob, which ends the writer as well, and goes on in another blob.
    pub takes_over: bool,
    /// Blobs consist of parts of this size, but for the last. Bytes out of order begin at a border of parts
    /// or behind bytes that are there. 1: of bytes.
    pub part_bytes: u64,
    /// A checkpoint at a multiple of this costs no more than the bytes it covers; at any other place it costs
    /// the store a piece of its own. 1: there is no such place. A cost and no rule: a checkpoint may be asked
    /// for anywhere, and when one is due is decided without this.
    pub checkpoint_bytes: u64,
    /// Joining blobs takes neither time for their bytes nor more of the medium.
    pub joins_without_copying: bool,
    /// The store knows how much of its medium is free.
    pub knows_free_space: bool,
    /// No [`Resume`](crate::Resume) token is longer: for who lays out where tokens are kept.
    pub max_resume_bytes: usize,
}
