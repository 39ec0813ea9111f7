//! The program as several processes that form a cluster. Needs PostgreSQL: `tests/services/postgres.sh`
//! starts a server and runs this target.

#![expect(unreachable_pub, reason = "this crate is a program; nobody imports it")]
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod cluster;
mod draining;
mod joining;
mod metrics;
mod moving;
mod replicas;
mod roles;
mod standby;
mod support;
