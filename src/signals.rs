//! Signals, and what each of them asks of the server.
//!
//! No signal that an administrator, a service manager or a log rotator sends out of habit ends the program by
//! accident: the default action of SIGHUP, SIGUSR1 and SIGUSR2 would be to kill it in the middle of uploads.
//! SIGPIPE is ignored by the runtime of the language.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals of this process, from the moment they are taken.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    /// A write beyond the limit of file sizes fails instead of ending the process.
    _file_size: Signal,
}

/// What the kernel sends for a write beyond `RLIMIT_FSIZE`.
const FILE_SIZE: i32 = rustix::process::Signal::XFSZ.as_raw();

impl Signals {
    /// Takes over the signals of this process. From then on none of them has its default action.
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

    /// Waits for a signal that ends the server: SIGTERM, SIGINT or SIGQUIT. Meanwhile SIGHUP calls
    /// `reload`, and the others change nothing.
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
