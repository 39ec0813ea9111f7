//! Signals, and the reaction of the server to each.
//!
//! No signal that an administrator, a service manager or a log rotator sends routinely ends the program by
//! accident: the default action of SIGHUP, SIGUSR1 and SIGUSR2 would kill it in the middle of uploads.
//! SIGPIPE is ignored by the Rust runtime.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// The handlers for the signals of this process.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    /// When the latest signal to stop arrived.
    stop_arrived: Option<Instant>,
    /// Registered so that a write beyond the file size limit fails instead of ending the process.
    _file_size: Signal,
}

/// Signals to stop that arrive within this time are one request. `timeout` and terminals signal a whole
/// process group, and a process in it may get a signal twice.
const ONE_REQUEST: Duration = Duration::from_millis(100);

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
            stop_arrived: None,
            _file_size: signal(SignalKind::from_raw(FILE_SIZE))?,
        })
    }

    /// Waits for a signal that stops the server: SIGTERM, SIGINT or SIGQUIT. Meanwhile SIGHUP calls `reload`,
    /// and the other signals have no effect.
    pub(crate) async fn until_stop(&mut self, reload: impl Fn()) {
        loop {
            let stops = tokio::select! {
                _ = self.terminate.recv() => true,
                _ = self.interrupt.recv() => true,
                _ = self.quit.recv() => true,
                _ = self.hangup.recv() => { reload(); false }
                _ = self.user1.recv() => { ignored("SIGUSR1"); false }
                _ = self.user2.recv() => { ignored("SIGUSR2"); false }
            };
            if stops && self.is_another_request() {
                return;
            }
        }
    }
}

impl Signals {
    /// Reports whether a signal to stop that arrives now is more than a repetition of the latest one.
    fn is_another_request(&mut self) -> bool {
        let is_another = self.stop_arrived.is_none_or(|arrived| arrived.elapsed() >= ONE_REQUEST);
        if is_another {
            self.stop_arrived = Some(Instant::now());
        }
        is_another
    }
}

fn ignored(signal: &'static str) {
    tracing::info!(
        signal,
        "ignored a signal that has no effect; the log goes to stderr and is not rotated by the server"
    );
}
