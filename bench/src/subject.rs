//! The subjects of the measurements.

use serde::{Deserialize, Serialize};

/// A server under measurement, or a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    Longshore,
    /// Longshore with `storage.durability = "relaxed"`.
    LongshoreRelaxed,
    /// An earlier build of Longshore, strict: shows the effect of a change on speed.
    LongshoreBefore,
    /// Longshore, strict, with its records in a PostgreSQL server on the same machine.
    LongshorePostgres,
    Tusd,
    TusNode,
    Rustus,
    /// Discards the bytes: the maximum of the generator.
    Sink,
    /// Receives and writes directly, nothing else: the maximum of this machine.
    Bare,
}

impl Subject {
    pub(crate) const ALL: [Self; 9] = [
        Self::Longshore,
        Self::LongshoreRelaxed,
        Self::LongshoreBefore,
        Self::LongshorePostgres,
        Self::Tusd,
        Self::TusNode,
        Self::Rustus,
        Self::Sink,
        Self::Bare,
    ];

    /// Returns the name on the command line and in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Longshore => "longshore",
            Self::LongshoreRelaxed => "longshore-relaxed",
            Self::LongshoreBefore => "longshore-before",
            Self::LongshorePostgres => "longshore-postgres",
            Self::Tusd => "tusd",
            Self::TusNode => "tus-node",
            Self::Rustus => "rustus",
            Self::Sink => "sink",
            Self::Bare => "bare",
        }
    }

    /// Returns the name in the report.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Longshore => "Longshore",
            Self::LongshoreRelaxed => "Longshore, relaxed",
            Self::LongshoreBefore => "Longshore, before",
            Self::LongshorePostgres => "Longshore on PostgreSQL",
            Self::Tusd => "tusd",
            Self::TusNode => "@tus/server",
            Self::Rustus => "rustus",
            Self::Sink => "sink (discards)",
            Self::Bare => "bare recv + direct write",
        }
    }

    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Tusd | Self::TusNode | Self::Rustus)
    }

    pub(crate) fn is_longshore(self) -> bool {
        matches!(self, Self::Longshore | Self::LongshoreRelaxed | Self::LongshoreBefore | Self::LongshorePostgres)
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subject| subject.name() == name)
    }
}
