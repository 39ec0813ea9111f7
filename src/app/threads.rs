//! The threads that process uploads, and their priority.

use std::io;
use std::sync::Once;

use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::runtime::{Builder, EnterGuard, Runtime};

use crate::config::Config;

/// The threads that write uploads to the disk. They are separate from the threads that serve requests, so
/// that a slow disk delays no other request.
pub(super) struct UploadThreads(Option<Runtime>);

impl UploadThreads {
    pub(super) fn start(config: &Config) -> io::Result<Self> {
        let niceness = upload_niceness(config);
        let mut threads = Builder::new_multi_thread();
        threads.enable_all().thread_name("uploads").max_blocking_threads(config.storage.io_threads);
        threads.on_thread_start(move || lower_this_thread(niceness));
        if let Some(workers) = config.server.workers {
            threads.worker_threads(workers);
        }
        threads.build().map(|runtime| Self(Some(runtime)))
    }

    /// Enters the runtime: until the returned guard is dropped, tasks spawned on the calling thread run on
    /// these threads.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }
}

impl Drop for UploadThreads {
    fn drop(&mut self) {
        // Do not wait for a thread that hangs in the kernel, for example on a dead disk.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Returns the niceness of upload threads. If they also serve reads, lowering their priority would not help.
pub(super) fn upload_niceness(config: &Config) -> u8 {
    if config.server.read_listen.is_some() { config.server.upload_niceness } else { 0 }
}

/// Lowers the priority of the calling thread: 0 changes nothing, 19 is the maximum. Threads that it starts
/// afterwards inherit the priority.
///
/// On Linux, the priority of a "process" applies to one thread if the id is that of a thread. If the priority
/// cannot be lowered, everything still works, but with equal priority.
pub(super) fn lower_this_thread(niceness: u8) {
    static LOGGED: Once = Once::new();
    if niceness == 0 {
        return;
    }
    if let Err(error) = setpriority_process(Some(gettid()), niceness.into()) {
        LOGGED.call_once(|| tracing::debug!(error = %error, "could not lower the priority of a thread"));
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn one_thread_and_those_it_starts_are_lowered_and_no_others() {
        let own = || getpriority_process(Some(gettid())).unwrap();
        let before = own();
        let lowered = std::thread::spawn(move || {
            lower_this_thread(15);
            (own(), std::thread::spawn(own).join().unwrap())
        });
        assert_eq!(lowered.join().unwrap(), (15, 15));
        assert_eq!(own(), before);
    }
}
