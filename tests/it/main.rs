//! Tests of the whole server, driven over sockets. One binary; each module has one subject.
//!
//! Citations such as `tus 53` or `webhooks R8` name entries of the lists in `docs/requirements`.

#![expect(unreachable_pub, reason = "this crate is a program; nobody imports it")]
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod support;

mod addresses;
mod auth;
mod clock;
mod connections;
mod crosstalk;
mod deletion;
mod disks;
mod downloads;
mod early;
mod edge;
mod engine;
mod events;
mod facts;
mod framing;
mod full;
mod hooks;
mod http2;
mod ietf;
mod interim;
mod laptop;
mod listeners;
mod memory;
mod metrics;
mod missing;
#[cfg(feature = "postgres-tests")]
mod moving;
mod nodes;
mod operations;
mod peers;
mod power;
mod privacy;
mod race;
mod ranged;
mod ranges;
mod read_tokens;
mod restart;
mod resume;
mod schemas;
mod shared_folder;
mod signals;
mod smoke;
mod stages;
mod status;
mod stores;
mod tidy;
mod tls;
mod trouble;
mod tus;
mod webhooks;
mod webhooks_admin;
mod webhooks_sending;
mod writer;
