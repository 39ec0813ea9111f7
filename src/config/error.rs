//! All errors of a configuration, one line each.

use std::fmt;

/// One or more errors. Each names a key, its value, the source of the value, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    pub fn one(line: impl Into<String>) -> Self {
        Self(vec![line.into()])
    }

    pub(super) fn new(lines: Vec<String>) -> Self {
        Self(lines)
    }

    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}
