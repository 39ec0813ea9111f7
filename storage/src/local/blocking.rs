//! Runs file operations outside the threads that serve connections.

use std::io;

use tokio::task::JoinHandle;

/// Starts `work` on the pool for blocking calls. It runs to its end even if its caller is dropped.
pub(super) fn start<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> JoinHandle<io::Result<T>> {
    tokio::task::spawn_blocking(work)
}

/// Returns the outcome of `work`. A panic in it, or the end of the runtime, becomes an error.
pub(super) async fn outcome<T>(work: JoinHandle<io::Result<T>>) -> io::Result<T> {
    work.await.unwrap_or_else(|ended| Err(io::Error::other(ended)))
}

pub(super) async fn run<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    outcome(start(work)).await
}
