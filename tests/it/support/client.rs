//! A raw HTTP/1.1 client: it sends exactly the bytes that a test gives it, stops where the test stops, and
//! checks the properties that every response must have.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::patience::PATIENCE;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const TUS: (&str, &str) = ("Tus-Resumable", "1.0.0");
pub const OCTETS: (&str, &str) = ("Content-Type", "application/offset+octet-stream");

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    pub address: SocketAddr,
    unread: Vec<u8>,
    /// Interim responses that arrived before the latest response.
    pub interim: Vec<Answer>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    /// The headers. A `Location` at the address of the connection is stored as a path, as a client that
    /// resolves it would request it.
    pub headers: Vec<(String, String)>,
    /// The `Location` as it was sent.
    pub location_as_sent: Option<String>,
    pub body: Vec<u8>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).unwrap();
        Self { stream, address, unread: Vec::new(), interim: Vec::new() }
    }

    /// Sends a whole request and reads its response. `Content-Length` is added when there is a body or the
    /// method has one.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut all = headers.to_vec();
        let length = body.len().to_string();
        if !body.is_empty() || matches!(method, "POST" | "PATCH" | "PUT") {
            all.push(("Content-Length", &length));
        }
        self.send_head(method, path, &all).await;
        self.send(body).await;
        let answer = self.answer(method).await;
        if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("tus-resumable"))
            && method != "OPTIONS"
            && path.starts_with("/files")
        {
            answer.names_the_version();
        }
        // A response that was sent before the body was read may end the connection, and says so.
        if answer.header("connection") == Some("close") {
            *self = Self::connect(self.address).await;
        }
        answer
    }

    /// Sends a tus request.
    pub async fn tus(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut all = vec![TUS];
        all.extend_from_slice(headers);
        self.request(method, path, &all, body).await
    }

    /// Creates an upload and returns its path.
    pub async fn create(&mut self, length: u64) -> String {
        let answer = self.tus("POST", "/files", &[("Upload-Length", &length.to_string())], b"").await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.header("location").expect("a creation says where").to_owned()
    }

    /// Appends bytes to an upload.
    pub async fn patch(&mut self, path: &str, offset: u64, body: &[u8]) -> Answer {
        self.tus("PATCH", path, &[OCTETS, ("Upload-Offset", &offset.to_string())], body).await
    }

    /// Requests the offset.
    pub async fn head(&mut self, path: &str) -> Answer {
        self.tus("HEAD", path, &[], b"").await
    }

    pub async fn offset(&mut self, path: &str) -> u64 {
        let answer = self.head(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("upload-offset").expect("HEAD tells the offset").parse().unwrap()
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, &[], b"").await
    }

    /// Returns the status of an upload by its `/files/…` path.
    pub async fn status(&mut self, path: &str) -> Value {
        let answer = self.get(&path.replace("/files/", "/api/v1/uploads/")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Sends the head of a request and nothing of its body.
    pub async fn send_head(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        self.interim.clear();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head.as_bytes()).await;
    }

    /// Begins a PATCH that announces `length` bytes of body; the test sends as many of them as it needs.
    pub async fn begin_patch(&mut self, path: &str, offset: u64, length: u64) {
        let (offset, length) = (offset.to_string(), length.to_string());
        self.send_head("PATCH", path, &[TUS, OCTETS, ("Upload-Offset", &offset), ("Content-Length", &length)]).await;
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // A server that answers early may close the connection; then only its response matters.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends one chunk of a chunked body; an empty one ends it.
    pub async fn send_chunk(&mut self, bytes: &[u8]) {
        let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
        framed.extend_from_slice(bytes);
        framed.extend_from_slice(b"\r\n");
        self.send(&framed).await;
    }

    /// Shuts down the sending side without waiting for anything.
    pub async fn fin(mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Resets the connection.
    pub fn rst(self) {
        let stream = self.stream.into_std().unwrap();
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads one response and checks the properties that every response must have.
    pub async fn answer(&mut self, method: &str) -> Answer {
        let answer = self.raw_answer(method).await.expect("the server answers");
        answer.check_debts(method);
        answer
    }

    /// Reads one response, if one arrives before the connection ends.
    pub async fn raw_answer(&mut self, method: &str) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, self.read_answer(method)).await.expect("an answer in time")
    }

    async fn read_answer(&mut self, method: &str) -> Option<Answer> {
        let mut answer = loop {
            let head = self.read_head().await?;
            if head.status >= 200 {
                break head;
            }
            self.interim.push(head);
        };
        if method == "HEAD" || matches!(answer.status, 204 | 304) {
            return Some(answer);
        }
        if answer.header("transfer-encoding").is_some() {
            loop {
                let size = String::from_utf8(self.read_until(b"\r\n").await?).unwrap();
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                answer.body.extend(self.read_exactly(size).await?);
                self.read_until(b"\r\n").await?;
                if size == 0 {
                    return Some(answer);
                }
            }
        }
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body = self.read_exactly(length).await?;
        Some(answer)
    }

    /// Reads one interim response.
    pub async fn next_interim(&mut self) -> Answer {
        let head = tokio::time::timeout(PATIENCE, self.read_head()).await.expect("an interim response in time");
        let head = head.expect("the connection lives");
        assert!(head.status < 200, "no answer yet: {head:?}");
        head
    }

    async fn read_head(&mut self) -> Option<Answer> {
        let head = String::from_utf8(self.read_until(b"\r\n\r\n").await?).unwrap();
        let mut lines = head.split("\r\n");
        let mut status_line = lines.next()?.splitn(3, ' ').skip(1);
        let status: u16 = status_line.next()?.parse().unwrap();
        let reason = status_line.next().unwrap_or_default().to_owned();
        let mut headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let location = headers.iter_mut().find(|(name, _)| name == "location").map(|(_, value)| value);
        let location_as_sent = location.as_deref().cloned();
        if let Some(location) = location
            && let Some(path) = location.strip_prefix(&format!("http://{}", self.address))
        {
            *location = path.to_owned();
        }
        Some(Answer { status, reason, headers, location_as_sent, body: Vec::new() })
    }

    /// Reads up to and including `end`; also for streams of events.
    pub async fn read_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                let rest = self.unread.split_off(at + end.len());
                return Some(std::mem::replace(&mut self.unread, rest));
            }
            self.read_more().await?;
        }
    }

    async fn read_exactly(&mut self, size: usize) -> Option<Vec<u8>> {
        while self.unread.len() < size {
            self.read_more().await?;
        }
        let rest = self.unread.split_off(size);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    async fn read_more(&mut self) -> Option<()> {
        let mut buffer = vec![0; 64 * 1024];
        let read = self.stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        self.unread.extend_from_slice(&buffer[..read]);
        Some(())
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// Returns the last part of a problem's type.
    pub fn problem(&self) -> String {
        let r#type = self.json()["type"].as_str().expect("a problem has a type").to_owned();
        r#type.rsplit([':', '#']).next().unwrap().to_owned()
    }

    /// Checks the properties that every response to a tus client must have.
    pub fn names_the_version(&self) {
        assert_eq!(self.header("tus-resumable"), Some("1.0.0"), "tus 7: every answer names the version: {self:?}");
    }

    pub fn check_debts(&self, method: &str) {
        assert!(self.header("x-request-id").is_some(), "every answer has a request id: {self:?}");
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"), "{self:?}");
        if self.status >= 400 && method != "HEAD" {
            assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
            let problem = self.json();
            assert_eq!(problem["status"], self.status, "{problem}");
            assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"), "{problem}");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 8), "{problem}");
        }
        if self.status == 503 || self.status == 507 || self.status == 500 {
            assert!(self.header("retry-after").is_some(), "trouble that may pass says when to come back: {self:?}");
        }
    }
}

impl Client {
    /// Connects to a server that may not be running.
    pub async fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self { stream, address, unread: Vec::new(), interim: Vec::new() })
    }
}
