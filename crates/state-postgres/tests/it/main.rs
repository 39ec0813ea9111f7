//! The conformance suite on PostgreSQL, and tests specific to PostgreSQL. `tests/services/postgres.sh` starts
//! a server and runs this target.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
#![expect(clippy::print_stdout, reason = "measurements and the reasons for skipped tests are shown")]

mod days;
mod delivery_plans;
mod log;
mod lost_answers;
mod opening;
mod place;
mod plans;
mod sending;
mod suite;
