//! The dialects clients speak. Each is two pure translations around one engine call, and decides nothing.
//!
//! A dialect has `wire` (header text to command and back; no I/O and no HTTP crate), `reply` (outcome or rejection to
//! response) and `mod` (handlers of a few lines).

#![warn(clippy::wildcard_enum_match_arm)]

mod attachment;
pub(crate) mod caller;
pub mod digests;
pub mod dispatch;
pub mod download;
pub mod ietf;
pub(crate) mod missing;
pub(crate) mod names;
pub mod ranged;
pub mod structured;
pub mod told;
pub mod tus;
