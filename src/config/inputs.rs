//! The inputs of a configuration besides the defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The layers an operator controls, as plain values: tests need no process environment.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// A TOML file: its path, for messages, and its text.
    pub file: Option<(PathBuf, String)>,
    /// Environment variables. Those that do not begin with `LONGSHORE_` are ignored.
    pub env: BTreeMap<String, String>,
    /// Flags by the key they set, such as `limits.idle_timeout`.
    pub flags: BTreeMap<String, String>,
}
