//! Tests against a store of S3's kind. `tests/services/seaweedfs.sh` starts one and sets its address.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod bucket;
mod conformance;
mod memory;
mod parts;
