//! Rules for writing the bytes of an upload, and for its completion.

crate::named! {
    /// The order in which the bytes of an upload arrive.
    pub enum WriteOrder {
        /// Sequential, from one request at a time.
        InOrder = "in-order",
        /// Any order, from several requests at once.
        Any = "any",
    }
}

crate::named! {
    /// The condition under which an upload completes.
    pub enum Completion {
        /// Automatically, once the whole length is present.
        WhenFull = "when-full",
        /// As soon as the client declares the upload complete.
        WhenSaid = "when-said",
    }
}

/// Order and completion of an upload. The protocol of its creation sets them permanently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriteRules {
    pub order: WriteOrder,
    pub completion: Completion,
}
