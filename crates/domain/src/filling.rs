//! How an upload is filled with bytes, and when it is complete.

use crate::dialect::Dialect;
use crate::endpoint::named;

named! {
    /// In which order the bytes of an upload come.
    WriteOrder {
        /// One after the other, from one request at a time.
        InOrder = "in-order",
        /// In any, from several requests at once.
        Any = "any",
    }
}

impl WriteOrder {
    /// The order that uploads of a dialect are filled in.
    pub const fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Tus | Dialect::Ietf | Dialect::Google => Self::InOrder,
            Dialect::Ranged => Self::Any,
        }
    }
}

named! {
    /// When an upload completes.
    Completion {
        /// By itself, once all of its length is there.
        WhenFull = "when-full",
        /// When its client says that nothing more comes.
        WhenSaid = "when-said",
    }
}
