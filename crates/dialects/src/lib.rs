//! The dialects clients speak. Each is two pure translations around one engine call, and decides nothing.
//!
//! A dialect is a folder with `wire` (header text to command and back; no I/O and no HTTP crate), `reply`
//! (outcome or rejection to response) and `mod` (handlers of a few lines). It hands one value to the front
//! ([`dialect::DialectHandler`]): its addresses, the fields it reads and shows, and how it is recognised. No
//! dialect names another.

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

/// Every dialect. Where two might be meant, the first one is.
pub fn all() -> Vec<DialectHandler> {
    vec![ietf::dialect(), tus::dialect(), ranged::dialect()]
}

/// Every media type that PATCH takes, in the words of `Accept-Patch`.
pub fn patch_types() -> String {
    all().iter().filter_map(|dialect| dialect.patch_type).collect::<Vec<_>>().join(", ")
}

/// The names that uploads are recorded under, of every dialect.
pub fn names() -> Vec<domain::dialect::Dialect> {
    all().iter().flat_map(|dialect| dialect.records).copied().collect()
}
