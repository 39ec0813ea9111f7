//! The bytes of uploads in an object store: S3 and the stores that speak its protocol.
//!
//! An open blob is a multipart upload, whose parts are sent from memory while bytes arrive. Bytes behind the
//! last part become durable as a small object beside it. All that is needed to go on is in the resume token,
//! which the caller commits: any node continues from it, and no file is ever written.
//!
//! Reading order: [`settings`], `names.rs` (keys of objects), `parts.rs` and `token.rs` (what a blob consists
//! of), `failure.rs` and `patience.rs` (what is repeated), `in_flight.rs`, `s3/` (requests), `turns.rs`,
//! `open_part.rs`, `writer.rs`, `sealing.rs`, `joining.rs`, `reading.rs`, `store.rs`, which puts them behind
//! the port, and `probe.rs`.

mod failure;
mod in_flight;
mod joining;
mod lock;
mod names;
mod open_part;
mod parts;
mod patience;
mod probe;
mod reading;
mod s3;
mod sealing;
pub mod settings;
mod store;
mod token;
mod turns;
mod writer;

pub use probe::{StoreFeatures, UnfinishedRule};
pub use settings::{ObjectStoreSettings, PartChecksum, S3Keys, S3Settings, Secret};
pub use store::ObjectBlobStore;
