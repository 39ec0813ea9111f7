//! Longshore: a dedicated server for very large, resumable uploads.
//!
//! 1. **Bytes first, then the promise.** An offset reported to anyone is in a committed row, and the bytes
//!    below it were durable before the commit.
//! 2. **One writer.** An upload has at most one live writer. When a client reconnects, the newest request
//!    wins and the older one is ended.
//! 3. **A change and its events commit together.** A state change and the events it causes are one
//!    transaction.
//! 4. **Dialects translate; they decide nothing.** All protocols call one engine.
//! 5. **Everything has a limit**: bodies, headers, metadata, queues, retries, response reads, time.
//!
//! The modules, in reading order:

pub mod app;
pub mod cli;
pub mod config;
pub mod front;
pub mod telemetry;
pub mod terminal;
