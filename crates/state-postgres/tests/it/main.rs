//! The conformance suite on PostgreSQL, and tests specific to PostgreSQL. `tests/services/postgres.sh` starts
//! a server and runs this target.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]
#![expect(clippy::print_stdout, reason = "what was measured is shown, and why a test was skipped")]

mod days;
mod delivery_plans;
mod log;
mod lost_answers;
mod opening;
mod place;
mod plans;
mod sending;
mod suite;
