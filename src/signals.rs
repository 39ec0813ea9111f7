//! Signals, and the reaction of the server to each.
//!
//! No signal that an administrator, a service manager or a log rotator sends routinely ends the program by
//! accident: the default action of SIGHUP, SIGUSR1 and SIGUSR2 would kill it in the middle of uploads.
//! SIGPIPE is ignored by the Rust runtime.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The handlers for the signals of this process.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    /// Registered so that a write beyond the file size limit fails instead of ending the process.
    _file_size: Signal,
}

/// Signal that the kernel sends for a write beyond `RLIMIT_FSIZE`.
const FILE_SIZE: i32 = rustix::process::Signal::XFSZ.as_raw();

impl Signals {
    /// Installs handlers for the signals of this process. From then on none of them has its default action.
    pub(crate) fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            _file_size: signal(SignalKind::from_raw(FILE_SIZE))?,
        })
    }

    /// Waits for a signal that stops the server: SIGTERM, SIGINT or SIGQUIT. Meanwhile SIGHUP calls `reload`,
    /// and the other signals have no effect.
    pub(crate) async fn until_stop(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.quit.recv() => return,
                _ = self.hangup.recv() => reload(),
                _ = self.user1.recv() => ignored("SIGUSR1"),
                _ = self.user2.recv() => ignored("SIGUSR2"),
            }
        }
    }
}

fn ignored(signal: &'static str) {
    tracing::info!(
        signal,
        "ignored a signal that has no effect; the log goes to stderr and is not rotated by the server"
    );
}
