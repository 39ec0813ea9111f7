//! An HTTP/1.1 client with the features that the scenarios need, as cheap as possible.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::payload::Payload;

/// A timeout: no request of a scenario takes longer, unless the server hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The largest head of a response that is read.
const MAX_HEAD: usize = 64 << 10;

/// The connection that carries the bytes.
enum Carrier {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

/// One connection.
pub(crate) struct Wire {
    carrier: Carrier,
    /// Received, but not parsed yet.
    pending: Vec<u8>,
}

/// A response of a server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Returns the number in a header, or an error.
    pub(crate) fn number(&self, name: &str) -> anyhow::Result<u64> {
        let text = self.header(name).with_context(|| format!("no {name} in the answer: {}", self.brief()))?;
        text.parse().with_context(|| format!("{name} is not a number: {text}"))
    }

    pub(crate) fn expect(self, statuses: &[u16]) -> anyhow::Result<Self> {
        ensure!(statuses.contains(&self.status), "unexpected answer: {}", self.brief());
        Ok(self)
    }

    /// Reports whether another request may follow on this connection.
    pub(crate) fn keeps(&self) -> bool {
        !self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn brief(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let line = self.head.lines().next().unwrap_or_default();
        format!("{line} {}", body.chars().take(200).collect::<String>().trim())
    }
}

impl Wire {
    pub(crate) fn connect(to: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { carrier: Carrier::Plain(open(to)?), pending: Vec::new() })
    }

    pub(crate) fn connect_tls(to: SocketAddr, config: &Arc<rustls::ClientConfig>) -> anyhow::Result<Self> {
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("it is a name");
        let mut session = rustls::ClientConnection::new(Arc::clone(config), name)?;
        session.set_buffer_limit(Some(1 << 20));
        let carrier = Carrier::Tls(Box::new(rustls::StreamOwned::new(session, open(to)?)));
        Ok(Self { carrier, pending: Vec::new() })
    }

    /// Returns the underlying socket, to break it or to send on it without waiting.
    pub(crate) fn socket(&self) -> &TcpStream {
        match &self.carrier {
            Carrier::Plain(socket) => socket,
            Carrier::Tls(stream) => stream.get_ref(),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer().write_all(bytes)?;
        self.writer().flush()
    }

    pub(crate) fn send_payload(&mut self, payload: &Payload, count: u64) -> std::io::Result<()> {
        match &mut self.carrier {
            Carrier::Plain(socket) => payload.send_file(socket, count),
            Carrier::Tls(stream) => payload.send_copy(stream, count),
        }
    }

    /// Waits for the final answer to a request with this method.
    pub(crate) fn answer(&mut self, method: &str) -> anyhow::Result<Answer> {
        loop {
            let head = self.read_head()?;
            let status = status(&head)?;
            if (100..200).contains(&status) {
                continue;
            }
            let bodiless = method == "HEAD" || status == 204 || status == 304;
            let body = if bodiless { Vec::new() } else { self.read_body(&head)? };
            return Ok(Answer { status, head, body });
        }
    }

    fn read_head(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = find(&self.pending, b"\r\n\r\n") {
                let rest = self.pending.split_off(end + 4);
                let head = std::mem::replace(&mut self.pending, rest);
                return Ok(String::from_utf8_lossy(&head[..end]).into_owned());
            }
            ensure!(self.pending.len() < MAX_HEAD, "the head of an answer is too long");
            self.fill()?;
        }
    }

    fn read_body(&mut self, head: &str) -> anyhow::Result<Vec<u8>> {
        if header(head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return self.read_chunks();
        }
        let size = header(head, "content-length").map_or(Ok(0), str::parse)?;
        self.take(size)
    }

    fn read_chunks(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match find(&self.pending, b"\r\n") {
                    Some(end) => break end,
                    None => self.fill()?,
                }
            };
            let line = self.take(end + 2)?;
            let size = usize::from_str_radix(std::str::from_utf8(&line)?.trim(), 16)?;
            let chunk = self.take(size + 2)?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    fn take(&mut self, size: usize) -> anyhow::Result<Vec<u8>> {
        while self.pending.len() < size {
            self.fill()?;
        }
        let rest = self.pending.split_off(size);
        Ok(std::mem::replace(&mut self.pending, rest))
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 16 << 10];
        let count = match &mut self.carrier {
            Carrier::Plain(socket) => socket.read(&mut buffer),
            Carrier::Tls(stream) => stream.read(&mut buffer),
        };
        match count {
            Ok(0) => bail!("the server closed the connection instead of answering"),
            Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("could not read the answer"),
        }
        Ok(())
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.carrier {
            Carrier::Plain(socket) => socket,
            Carrier::Tls(stream) => stream,
        }
    }
}

fn open(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpStream::connect(to).with_context(|| format!("could not connect to {to}"))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Returns the value of a header in a head.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn status(head: &str) -> anyhow::Result<u16> {
    let word = head.split(' ').nth(1).with_context(|| format!("not an HTTP response: {head}"))?;
    word.parse().with_context(|| format!("not a status code: {word}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answer_of(sent: &'static [u8]) -> Answer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || listener.accept().unwrap().0.write_all(sent).unwrap());
        let answer = Wire::connect(address).unwrap().answer("GET").unwrap();
        server.join().unwrap();
        answer
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let answer = answer_of(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!((answer.status, answer.body.as_slice()), (201, b"ok".as_slice()));
    }

    #[test]
    fn chunks_are_joined() {
        let answer =
            answer_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n");
        assert_eq!(answer.body, b"abc0123456789");
    }

    #[test]
    fn a_server_that_closes_is_told_from_one_that_answers() {
        let answer = answer_of(b"HTTP/1.1 204 No Content\r\nConnection: close\r\nUpload-Offset: 7\r\n\r\n");
        assert_eq!(answer.number("upload-offset").unwrap(), 7);
        assert!(!answer.keeps());
    }
}
