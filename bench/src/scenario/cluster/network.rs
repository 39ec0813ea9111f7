//! Hosts: network namespaces on a bridge. The generator and PostgreSQL are at the address of the bridge.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, ensure};

/// The address of clients and of the database.
pub(super) const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

const BRIDGE: &str = "br0";

/// A namespace. It ends with the process, not with this value.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    /// The end of its line at the bridge.
    port: String,
}

/// Creates the bridge. Names of namespaces are files, which are visible to this process only.
pub(super) fn prepare() -> anyhow::Result<()> {
    fs::create_dir_all("/run/netns")?;
    run("mount", "-t tmpfs tmpfs /run/netns")?;
    run("ip", "link set lo up")?;
    run("ip", &format!("link add {BRIDGE} type bridge"))?;
    run("ip", &format!("address add {HERE}/24 dev {BRIDGE}"))?;
    run("ip", &format!("link set {BRIDGE} up"))
}

impl Host {
    /// Adds a host to the network, with an address that was not used before.
    pub(super) fn add() -> anyhow::Result<Self> {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
        let (name, port) = (format!("host{number}"), format!("port{number}"));
        let address = Ipv4Addr::new(10, 77, 0, 1 + number);
        run("ip", &format!("netns add {name}"))?;
        run("ip", &format!("link add {port} type veth peer name eth0 netns {name}"))?;
        run("ip", &format!("link set {port} master {BRIDGE} up"))?;
        run("ip", &format!("-n {name} link set lo up"))?;
        run("ip", &format!("-n {name} address add {address}/24 dev eth0"))?;
        run("ip", &format!("-n {name} link set eth0 up"))?;
        Ok(Self { name, address, port })
    }

    /// Returns the command that runs a program on this host; it becomes that process.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        command
    }

    /// Limits what arrives at this host, in bytes per second.
    pub(super) fn limit_rate(&self, bytes: u64) -> anyhow::Result<()> {
        let shape = format!("tbf rate {}bit burst 1mb latency 100ms", bytes * 8);
        run("tc", &format!("qdisc replace dev {} root {shape}", self.port))
    }

    /// Cuts the host off, or connects it again.
    pub(super) fn connect(&self, is_up: bool) -> anyhow::Result<()> {
        run("ip", &format!("link set {} {}", self.port, if is_up { "up" } else { "down" }))
    }
}

fn run(program: &str, words: &str) -> anyhow::Result<()> {
    let output = Command::new(program).args(words.split(' ')).output();
    let output = output.with_context(|| format!("could not run {program}"))?;
    ensure!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
