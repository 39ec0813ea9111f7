//! The protocols that uploads are created in, by name.

crate::named! {
    /// The protocol an upload was created in; later requests are expected in the same one.
    pub enum Dialect {
        /// tus 1.0.
        Tus = "tus",
        /// Resumable Uploads for HTTP, the IETF draft.
        Ietf = "ietf",
        /// Ranged `PUT` in order, as Google's client libraries speak it.
        Google = "google",
        /// Ranged `PUT` in any order and from several connections at once; plain uploads are of this kind too.
        Ranged = "ranged",
    }
}
