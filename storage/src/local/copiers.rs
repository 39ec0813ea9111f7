//! The threads that copy whole files: few, and separate from those that write and sync.
//!
//! A copy may take minutes. On the threads for blocking work it would delay short writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use tokio::sync::{Semaphore, oneshot};

/// Maximum number of copies at once; others wait.
const THREADS: usize = 2;

#[derive(Debug)]
pub(super) struct Copiers(Arc<Semaphore>);

/// Set when the copy is no longer wanted.
#[derive(Debug, Clone, Default)]
pub(super) struct CancelFlag(Arc<AtomicBool>);

impl Default for Copiers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(THREADS)))
    }
}

impl Copiers {
    /// Runs `work` on a dedicated thread, once one is free. If the future is dropped before it is done,
    /// `work` sees that it is cancelled, and has to undo its changes.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CancelFlag) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)?;
        let cancelled = CancelFlag::default();
        let _cancels = CancelsWhenDropped(cancelled.clone());
        let (done, outcome) = oneshot::channel();
        thread::Builder::new().name("copier".to_owned()).spawn(move || {
            let outcome = work(&cancelled);
            drop(permit);
            // The caller may have gone away.
            let _ = done.send(outcome);
        })?;
        outcome.await.unwrap_or_else(|died| Err(io::Error::other(died)))
    }
}

impl CancelFlag {
    /// Returns an error once the copy is cancelled.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::Interrupted, "the copy was cancelled")),
            false => Ok(()),
        }
    }
}

struct CancelsWhenDropped(CancelFlag);

impl Drop for CancelsWhenDropped {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_copy_that_nobody_waits_for_is_cancelled_and_leaves_its_thread_to_others() {
        let copiers = Copiers::default();
        let (tell, told) = mpsc::channel();
        for _ in 0..THREADS {
            let tell = tell.clone();
            let mut copy = copiers
                .run(move |cancelled| {
                    while cancelled.check().is_ok() {
                        thread::yield_now();
                    }
                    tell.send(()).map_err(io::Error::other)
                })
                .boxed();
            assert!((&mut copy).now_or_never().is_none(), "it continues while a caller waits");
            drop(copy);
        }
        assert_eq!(copiers.run(|_| Ok(7)).await.ok(), Some(7));
        assert!(told.recv().is_ok() && told.recv().is_ok());
    }
}
