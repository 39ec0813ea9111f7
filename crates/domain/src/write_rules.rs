//! How an upload is filled with bytes, and when it is complete.

crate::named! {
    /// In which order the bytes of an upload come.
    pub enum WriteOrder {
        /// One after the other, from one request at a time.
        InOrder = "in-order",
        /// In any, from several requests at once.
        Any = "any",
    }
}

crate::named! {
    /// When an upload completes.
    pub enum Completion {
        /// By itself, once all of its length is there.
        WhenFull = "when-full",
        /// When its client says that nothing more comes.
        WhenSaid = "when-said",
    }
}

/// Both, as the protocol of its creation sets them for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriteRules {
    pub order: WriteOrder,
    pub completion: Completion,
}
