//! The protocols that uploads are created in, by name.

/// The protocol an upload was created in; later requests are expected in the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// tus 1.0.
    Tus,
    /// Resumable Uploads for HTTP, the IETF draft.
    Ietf,
    /// Ranged `PUT` in order, as Google's client libraries speak it.
    Google,
    /// Ranged `PUT` in any order and from several connections at once; plain uploads are of this kind too.
    Ranged,
}

impl Dialect {
    pub const ALL: [Self; 4] = [Self::Tus, Self::Ietf, Self::Google, Self::Ranged];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Tus => "tus",
            Self::Ietf => "ietf",
            Self::Google => "google",
            Self::Ranged => "ranged",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }
}
