//! The real program as a process that can be killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::client::Client;
use crate::support::patience::until;

/// A running `longshore serve`. It is killed when dropped.
pub struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts the program on a free port and waits for its line on standard output.
    pub fn start(data_dir: &Path, flags: &[&str]) -> Self {
        let mut child = Self::command(data_dir, flags).spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("it said {line:?}"));
        Self { address: address.parse().unwrap(), child }
    }

    /// Returns the command line of a server on a free port.
    pub fn command(data_dir: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--storage-min-free-space",
            "0",
            "--log-level",
            "warn",
            "--data-dir",
        ]);
        command.arg(data_dir).args(flags).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Stops the process with SIGSTOP, and waits until none of its threads runs.
    pub async fn freeze(&self) {
        self.signal("STOP");
        let is_stopped = |stat: &str| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'));
        until("every thread has stopped", async || {
            let threads = std::fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
            let mut stats = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")));
            stats.all(|stat| stat.is_ok_and(|stat| is_stopped(&stat))).then_some(())
        })
        .await;
    }

    /// Waits until it exits. Returns the exit code, or `None` if a signal ended it.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts a command that a test has built, and waits for its line on standard output.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("it said {line:?}"));
        Self { address: address.parse().unwrap(), child }
    }
}
