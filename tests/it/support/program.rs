//! The real program run from the command line: its output and its exit code.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::patience::PATIENCE;
use tempfile::TempDir;

/// The result of a run.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A running program whose output is kept. It is killed when dropped.
pub struct Program {
    child: Child,
    outputs: TempDir,
}

impl Program {
    pub fn start(args: &[&str]) -> Self {
        Self::start_under(&[], args)
    }

    /// Starts the program through another command that executes it, such as one that limits or traces it.
    fn start_under(wrapper: &[&str], args: &[&str]) -> Self {
        let outputs = TempDir::new().unwrap();
        let file = |name| Stdio::from(fs::File::create(outputs.path().join(name)).unwrap());
        let line = [wrapper, &[env!("CARGO_BIN_EXE_longshore")], args].concat();
        let mut command = Command::new(line[0]);
        // A variable such as LONGSHORE_BIN, which chooses the executable of other tests, would be read as a
        // setting.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LONGSHORE_")) {
            command.env_remove(name);
        }
        let child = command.args(&line[1..]).stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr")).spawn();
        Self { child: child.unwrap(), outputs }
    }

    /// Starts a server on a free port of the loopback.
    pub fn serve(data_dir: &Path, flags: &[&str]) -> Self {
        Self::serve_under(&[], data_dir, flags)
    }

    /// Starts a server through another command that executes the program.
    pub fn serve_under(wrapper: &[&str], data_dir: &Path, flags: &[&str]) -> Self {
        let data_dir = data_dir.to_str().unwrap();
        let own = ["serve", "--listen", "127.0.0.1:0", "--storage-min-free-space", "0", "--data-dir", data_dir];
        Self::start_under(wrapper, &[&own, flags].concat())
    }

    /// Returns the amount of memory that the kernel reports, such as `VmRSS`.
    pub fn memory_bytes(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|value| value.trim().strip_suffix(" kB")).expect("the kernel tells it in kB");
        kib.parse::<u64>().unwrap() * 1024
    }

    /// Waits for the line with the address that the server listens on.
    pub fn address(&mut self) -> SocketAddr {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((line, _)) = self.stdout().split_once('\n') {
                let (said, address) = line.split_once("://").expect("the line of a server");
                assert!(matches!(said, "listening on http" | "listening on https"), "{line}");
                return address.parse().unwrap();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Sends several signals at once.
    pub fn signals(&self, names: &[&str]) {
        let kill = |name: &&str| format!("kill -{name} {};", self.child.id());
        let script: String = names.iter().map(kill).collect();
        assert!(Command::new("sh").arg("-c").arg(script).status().unwrap().success());
    }

    /// Waits until it exits without being killed.
    pub fn ran(mut self) -> Ran {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ran { code: status.code(), stdout: self.stdout(), stderr: self.stderr() };
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.outputs.path().join("stderr")).unwrap()
    }

    pub fn stdout(&self) -> String {
        fs::read_to_string(self.outputs.path().join("stdout")).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command line that exits without being killed.
pub fn run(args: &[&str]) -> Ran {
    Program::start(args).ran()
}
