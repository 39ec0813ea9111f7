//! The parts of the support for tests of one server that these tests use.

#![expect(dead_code, reason = "other tests use the rest")]

#[path = "../it/support/client.rs"]
pub mod client;
#[path = "../it/support/patience.rs"]
pub mod patience;
#[path = "../it/support/program.rs"]
pub mod program;
#[path = "../it/support/seeded.rs"]
pub mod seeded;
