//! The dialects. Each consists of two translations around one engine call, and makes no decisions.
//!
//! A dialect is a folder with `wire` (header text to command and back; no I/O and no HTTP crate), `reply`
//! (outcome or rejection to response) and `mod` (handlers of a few lines). It provides one value to the front
//! ([`dialect::DialectHandler`]): its addresses, the fields it reads and returns, and how it is recognized.
//! No dialect refers to another.

#![warn(clippy::wildcard_enum_match_arm)]

mod attachment;
mod caller;
pub mod choice;
pub mod dialect;
mod digests;
mod download;
mod ietf;
mod metadata;
pub mod missing;
mod names;
mod pump;
mod ranged;
mod structured;
#[cfg(test)]
mod testing;
pub mod trouble;
mod tus;
mod upload_fields;
pub mod uploads;

use dialect::DialectHandler;

/// Returns all dialects. If a request may belong to two, the first is used.
pub fn all() -> Vec<DialectHandler> {
    vec![ietf::dialect(), tus::dialect(), ranged::dialect()]
}

/// Returns all media types that PATCH accepts, as the value of `Accept-Patch`.
pub fn patch_types() -> String {
    all().iter().filter_map(|dialect| dialect.patch_type).collect::<Vec<_>>().join(", ")
}

/// Returns the names under which uploads of all dialects are recorded.
pub fn names() -> Vec<domain::dialect::Dialect> {
    all().iter().flat_map(|dialect| dialect.records).copied().collect()
}
