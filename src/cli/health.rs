//! `longshore health`: asks a running server whether it is ready. Made for container health checks, where no shell
//! and no curl are.

use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use clap::ArgMatches;
use clap::Command;

use crate::cli::Failure;
use crate::cli::print;
use crate::cli::settings;
use crate::config::keys;
use crate::config::listen_address;

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(3);

/// More than any status line.
const STATUS_LINE_MAX: usize = 1024;

pub(super) fn command() -> Command {
    let listen = keys().iter().filter(|key| key.name == "listen").map(settings::flag);
    Command::new("health")
        .about("Ask the server whether it is ready; exit 0 if it is, else 1 and say why")
        .args(listen)
        .arg(settings::config_flag())
}

pub(super) fn run(matches: &ArgMatches, env: &BTreeMap<String, String>, out: &mut dyn Write) -> Result<(), Failure> {
    let listen = settings::inputs(matches, env).and_then(|inputs| listen_address(&inputs));
    let listen = listen.map_err(|errors| Failure::NotReady(errors.lines().join("; ")))?;
    check(listen, TIMEOUT).map_err(Failure::NotReady)?;
    print(out, "ready\n")
}

/// Asks `GET /readyz` of the server that listens on this address; else the reason, in one line.
pub(super) fn check(listen: SocketAddr, timeout: Duration) -> Result<(), String> {
    if listen.port() == 0 {
        return Err("port 0 is a different one at each start; name the one in use with --listen".to_owned());
    }
    let at = reachable(listen);
    let line = status_line(at, Instant::now() + timeout).map_err(|why| match why.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer from {at} within {timeout:?}"),
        _ => format!("could not ask {at}: {why}"),
    })?;
    match line.strip_prefix("HTTP/1.1 ") {
        Some(status) if status.starts_with("200") => Ok(()),
        Some(status) => Err(format!("{at} answers {status}")),
        None => Err(format!("{at} does not answer as this server would")),
    }
}

/// A server that listens on all addresses is reached on the loopback one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn status_line(at: SocketAddr, deadline: Instant) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, left(deadline)?)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let agent = concat!("longshore-health/", env!("CARGO_PKG_VERSION"));
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {at}\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < STATUS_LINE_MAX {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut chunk = [0; 256];
        match stream.read(&mut chunk)? {
            0 => break,
            count => answer.extend(&chunk[..count]),
        }
    }
    let line = answer.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    Ok(line.escape_ascii().to_string())
}

/// The time left; it is an error to have none, also for the calls that take it.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
