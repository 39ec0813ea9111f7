//! The vocabulary of uploads and the rules for them.
//!
//! Everything here is pure and synchronous: no clock, no randomness, no I/O, no wire format. `now` and random
//! values are arguments, so every rule can be tested as a table or a property.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod checksum;
pub mod delivery;
pub mod dialect;
pub mod duty;
pub mod endpoint;
pub mod event;
pub mod facts;
pub mod failure;
pub mod generation;
pub mod health;
pub mod hook;
pub mod host;
pub mod id;
pub mod lane;
pub mod log;
pub mod media_type;
pub mod metadata;
mod named;
pub mod network;
pub mod node;
pub mod notice;
pub mod policy;
pub mod position;
pub mod principal;
pub mod query;
pub mod ranges;
pub mod rejection;
pub mod removal;
pub mod replay;
pub mod report;
pub mod size;
pub mod stage;
pub mod time;
pub mod upload;
pub mod write_rules;
