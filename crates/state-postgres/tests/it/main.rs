//! The conformance suite on PostgreSQL, and tests specific to PostgreSQL. `tests/services/postgres.sh` starts
//! a server and runs this target.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
#![expect(clippy::print_stdout, reason = "measurements and the reasons for skipped tests are shown")]

mod days;
mod delivery_plans;
mod failover;
mod log;
mod lost_answers;
mod measures;
mod migrations;
mod old_days;
mod opening;
mod outages;
mod place;
mod plans;
mod pooled_server;
mod pooler;
mod read_node;
mod replicas;
mod sending;
mod server;
mod suite;
mod threads;
