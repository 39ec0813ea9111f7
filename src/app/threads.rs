//! The threads that uploads run on, and how urgent they are.

use std::io;
use std::sync::Once;

use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::runtime::{Builder, EnterGuard, Runtime};

use crate::config::Config;

/// The threads that move the bytes of uploads to the disk: apart from those that answer requests, so
/// that a slow disk keeps nobody else waiting.
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

    /// While what is given back lives, what is begun on this thread runs on those.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }
}

impl Drop for UploadThreads {
    fn drop(&mut self) {
        // A thread that hangs in the kernel, on a dead disk say, is not waited for.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// How far uploads stand back. Where they share threads with reads, lowering them would help nobody.
pub(super) fn upload_niceness(config: &Config) -> u8 {
    if config.server.read_listen.is_some() { config.server.upload_niceness } else { 0 }
}

/// Lets other threads go before the one that calls this: 0 changes nothing, 19 is the most. Threads it starts
/// afterwards inherit it.
///
/// On Linux the priority of a "process" is that of one thread when it is named by a thread's id. Where it
/// cannot be lowered everything works all the same, only less politely.
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
