//! `longshore health`: checks whether a running server is ready. Intended for health checks in containers,
//! which have neither a shell nor curl.

use std::collections::BTreeMap;
use std::io;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::{ArgMatches, Command};

use crate::cli::{Failure, print, settings};
use crate::config::{HealthTarget, keys};

mod unverified;

/// Timeout of the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum length of a status line, in bytes.
const STATUS_LINE_MAX: usize = 1024;

pub(super) fn command() -> Command {
    let needed = ["listen", "tls.certificate_file"];
    let flags = keys().iter().filter(|key| needed.contains(&key.name.as_str())).map(settings::flag);
    Command::new("health")
        .about("Check whether the server is ready: exit 0 if it is, otherwise print the reason and exit 1")
        .args(flags)
        .arg(settings::config_flag())
}

pub(super) fn run(matches: &ArgMatches, env: &BTreeMap<String, String>, out: &mut dyn Write) -> Result<(), Failure> {
    let target = settings::inputs(matches, env).and_then(|inputs| HealthTarget::read(&inputs));
    let target = target.map_err(|errors| Failure::NotReady(errors.lines().join("; ")))?;
    check(target, TIMEOUT).map_err(Failure::NotReady)?;
    print(out, "ready\n")
}

/// Sends `GET /readyz` to the server. Returns the reason in one line if it is not ready.
pub(super) fn check(target: HealthTarget, timeout: Duration) -> Result<(), String> {
    if target.listen.port() == 0 {
        return Err("port 0 picks another port at each start; set the port in use with --listen".to_owned());
    }
    let at = reachable(target.listen);
    let line = status_line(at, target.tls, Instant::now() + timeout).map_err(|why| match why.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no response from {at} within {timeout:?}"),
        _ => format!("could not query {at}: {why}"),
    })?;
    match line.strip_prefix("HTTP/1.1 ") {
        Some(status) if status.starts_with("200") => Ok(()),
        Some(status) => Err(format!("{at} returned {status}")),
        None => Err(format!("{at} did not respond like a Longshore server")),
    }
}

/// Returns the address to connect to: the loopback address if the server listens on all addresses.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn status_line(at: SocketAddr, tls: bool, deadline: Instant) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&at, left(deadline)?)?;
    let mut stream = Timed { stream, deadline };
    if !tls {
        return query(&mut stream, at);
    }
    let mut session = unverified::session(at).map_err(io::Error::other)?;
    query(&mut rustls::Stream::new(&mut session, &mut stream), at)
}

fn query(stream: &mut (impl Read + Write), at: SocketAddr) -> io::Result<String> {
    let agent = concat!("longshore-health/", env!("CARGO_PKG_VERSION"));
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {at}\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < STATUS_LINE_MAX {
        let mut chunk = [0; 256];
        match stream.read(&mut chunk)? {
            0 => break,
            count => answer.extend(&chunk[..count]),
        }
    }
    let line = answer.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    Ok(line.escape_ascii().to_string())
}

/// A connection on which all operations in total end at the deadline.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Returns the time left. If there is none, returns a timeout error, because the socket calls reject a zero
/// timeout.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}
