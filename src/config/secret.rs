//! Secret text that must not be shown.

use std::fmt;

/// Placeholder that is printed instead of a secret.
pub(super) const HIDDEN: &str = "(hidden)";

/// A token or key, which cannot be printed or logged by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the secret. The caller must not disclose it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}
