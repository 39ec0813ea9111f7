//! Tests of the crate through its public interface.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod conformance;
mod disks;
mod faults;
mod local;
mod random;
mod shared_folder;
