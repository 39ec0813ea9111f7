//! A receiver on a real socket that responds as scripted, for tests of outbound requests.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::time::Timestamp;
use reqwest::header::{HeaderMap, HeaderName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Maximum time that a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

#[expect(clippy::disallowed_methods, reason = "tests may ask the machine")]
pub fn wall_clock() -> Timestamp {
    Timestamp::from_unix_ms(0).plus(std::time::UNIX_EPOCH.elapsed().unwrap())
}

/// Reaction of a receiver to one request that it has read.
#[derive(Debug, Clone)]
pub enum Script {
    Status(u16),
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Answers with this status after a time.
    Late(Duration, u16),
    /// Never responds.
    Hang,
    /// Sends the status line a byte at a time and never completes it.
    DripHead,
    /// Sends headers at once and then an endless body, a byte at a time.
    DripBody(u16),
    /// Sends headers and half of the announced body.
    StalledBody(u16),
    /// Announces a gigabyte and sends it as fast as it is read.
    Gigabyte(u16),
    /// Closes the connection without a response.
    Close,
    /// Resets the connection without a response.
    Reset,
    /// Resets the connection after this time.
    ResetLate(Duration),
    /// Sends bytes that are not HTTP.
    Garbage,
}

#[derive(Debug, Clone)]
pub struct Received {
    /// Index of the connection, from 0.
    pub connection: usize,
    pub head: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

/// A receiver that responds by its script: one entry for each request, and the last entry for all further
/// ones.
#[derive(Debug)]
pub struct Receiver {
    pub address: SocketAddr,
    state: Arc<ReceiverState>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct ReceiverState {
    script: Mutex<VecDeque<Script>>,
    received: Mutex<Vec<Received>>,
    count: watch::Sender<usize>,
    body_bytes_sent: AtomicU64,
    at_once: AtomicU64,
    most_at_once: AtomicU64,
}

impl Receiver {
    pub async fn start(script: impl IntoIterator<Item = Script>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ReceiverState {
            script: Mutex::new(script.into_iter().collect()),
            received: Mutex::default(),
            count: watch::Sender::new(0),
            body_bytes_sent: AtomicU64::new(0),
            at_once: AtomicU64::new(0),
            most_at_once: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Waits for this many requests.
    pub async fn heard(&self, count: usize) -> Vec<Received> {
        let mut counted = self.state.count.subscribe();
        let enough = counted.wait_for(|heard| *heard >= count);
        timeout(PATIENCE, enough).await.unwrap_or_else(|_| panic!("{count} requests did not come")).unwrap();
        self.received()
    }

    /// Returns the greatest number of requests that were answered late at the same time.
    pub fn most_at_once(&self) -> u64 {
        self.state.most_at_once.load(Ordering::SeqCst)
    }

    pub fn body_bytes_sent(&self) -> u64 {
        self.state.body_bytes_sent.load(Ordering::SeqCst)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<ReceiverState>) {
    let mut open = JoinSet::new();
    for connection in 0.. {
        let (mut stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        open.spawn(async move { while state.serve(&mut stream, connection).await.is_some() {} });
    }
}

impl ReceiverState {
    /// Reads a request and reacts to it as the script says. Returns `None` when the connection is of no
    /// further use.
    async fn serve(&self, stream: &mut TcpStream, connection: usize) -> Option<()> {
        let received = read_request(stream, connection).await?;
        let script = {
            let mut script = self.script.lock().unwrap();
            if script.len() > 1 { script.pop_front() } else { script.front().cloned() }
        };
        self.received.lock().unwrap().push(received);
        self.count.send_modify(|count| *count += 1);
        match script.expect("a script has at least one line") {
            Script::Status(status) => answer(stream, status, &[], b"").await,
            Script::Answer { status, headers, body } => answer(stream, status, &headers, &body).await,
            Script::Late(after, status) => {
                self.at_once.fetch_add(1, Ordering::SeqCst);
                self.most_at_once.fetch_max(self.at_once.load(Ordering::SeqCst), Ordering::SeqCst);
                sleep(after).await;
                self.at_once.fetch_sub(1, Ordering::SeqCst);
                answer(stream, status, &[], b"").await
            }
            Script::Hang => std::future::pending().await,
            Script::DripHead => drip(stream, "HTTP/1.1 200 OK", Duration::from_millis(200)).await,
            Script::DripBody(status) => {
                write(stream, format!("HTTP/1.1 {status} Said\r\n\r\n").as_bytes()).await?;
                drip(stream, "drop", Duration::from_millis(20)).await
            }
            Script::StalledBody(status) => {
                write(stream, format!("HTTP/1.1 {status} Said\r\ncontent-length: 10\r\n\r\nhalf ").as_bytes()).await?;
                std::future::pending().await
            }
            Script::Gigabyte(status) => self.send_gigabyte(stream, status).await,
            Script::Close => None,
            Script::Reset => {
                stream.set_zero_linger().unwrap();
                None
            }
            Script::ResetLate(after) => {
                sleep(after).await;
                stream.set_zero_linger().unwrap();
                None
            }
            Script::Garbage => {
                write(stream, b"220 mail.example.com ESMTP\r\n\r\n").await?;
                None
            }
        }
    }

    async fn send_gigabyte(&self, stream: &mut TcpStream, status: u16) -> Option<()> {
        let size = 1_u64 << 30;
        write(stream, format!("HTTP/1.1 {status} Said\r\ncontent-length: {size}\r\n\r\n").as_bytes()).await?;
        let block = vec![b'x'; 1 << 16];
        loop {
            write(stream, &block).await?;
            if self.body_bytes_sent.fetch_add(1 << 16, Ordering::SeqCst) >= size {
                return None;
            }
        }
    }
}

async fn answer(stream: &mut TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) -> Option<()> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    write(stream, &[head.as_bytes(), body].concat()).await
}

async fn drip(stream: &mut TcpStream, text: &str, every: Duration) -> Option<()> {
    for byte in text.bytes().cycle() {
        write(stream, &[byte]).await?;
        sleep(every).await;
    }
    None
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> Option<()> {
    stream.write_all(bytes).await.ok()
}

async fn read_request(stream: &mut TcpStream, connection: usize) -> Option<Received> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut headers = HeaderMap::new();
    for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.trim().parse().unwrap());
    }
    let length = headers.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Received { connection, head, headers, body })
}
