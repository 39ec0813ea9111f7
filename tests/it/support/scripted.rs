//! A scripted webhook receiver: it answers, hangs, drips or resets. It keeps every request byte for byte.
//!
//! Before that it verifies each signature with the receiver's secret, and each body against its schema.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::patience::PATIENCE;
use crate::support::schema::check_event;

/// The reply to one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A status line, with further headers if needed, and no body: `500 Oops\r\nRetry-After: 1`.
    Status(&'static str),
    /// A status line and a body.
    Body(&'static str, Vec<u8>),
    /// `204`, once [`Scripted::release`] was called.
    Hold,
    /// No reply, ever.
    Hang,
    /// The status line, one byte at a time.
    DripHead,
    /// `200`, and then an endless body, one byte at a time.
    DripBody,
    /// `200`, and a gigabyte as fast as the client reads it.
    Gigabyte,
    Reset,
}

/// One request, with a signature that was verified.
#[derive(Debug, Clone)]
pub struct Request {
    pub id: String,
    pub headers: HashMap<String, String>,
    pub raw: Vec<u8>,
    pub json: Value,
}

impl Request {
    pub fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap()
    }

    pub fn sequence(&self) -> u64 {
        self.json["data"]["sequence"].as_u64().unwrap()
    }

    pub fn upload(&self) -> &str {
        self.json["data"]["upload_id"].as_str().unwrap()
    }

    /// The number of the attempt.
    pub fn attempt(&self) -> u64 {
        self.headers["webhook-attempt"].parse().unwrap()
    }

    pub fn timestamp(&self) -> i64 {
        self.headers["webhook-timestamp"].parse().expect("webhooks H3: the timestamp is whole seconds")
    }
}

type Decide = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

/// A receiver on its own port. It stops listening when it is dropped.
pub struct Scripted {
    pub address: SocketAddr,
    secret: String,
    state: Arc<ReceiverState>,
    accepting: JoinHandle<()>,
}

struct ReceiverState {
    secret: String,
    decide: Mutex<Decide>,
    heard: watch::Sender<Vec<Request>>,
    answered: watch::Sender<u64>,
    released: watch::Sender<bool>,
    body_bytes_sent: AtomicU64,
}

impl Scripted {
    /// Starts on a free port, and answers 204.
    pub async fn start(secret: &str) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), secret).await
    }

    /// Starts at the address of an earlier receiver.
    pub async fn at(address: SocketAddr, secret: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let state = Arc::new(ReceiverState {
            secret: secret.to_owned(),
            decide: Mutex::new(Box::new(|_| Reply::Status("204 No Content"))),
            heard: watch::Sender::default(),
            answered: watch::Sender::default(),
            released: watch::Sender::new(false),
            body_bytes_sent: AtomicU64::new(0),
        });
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, secret: secret.to_owned(), state, accepting }
    }

    /// Sets the function that chooses the reply to each later request.
    pub fn decide(&self, decide: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        *self.state.decide.lock().unwrap() = Box::new(decide);
    }

    /// Sends the same reply to every later request.
    pub fn always(&self, reply: Reply) {
        self.decide(move |_| reply.clone());
    }

    /// Releases the replies to held requests, and to later ones.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Returns the TOML of an endpoint that sends to this receiver.
    pub fn endpoint(&self, name: &str, events: &str) -> String {
        endpoint_at(self.address, name, &self.secret, events)
    }

    pub fn heard(&self) -> Vec<Request> {
        self.state.heard.borrow().clone()
    }

    /// Waits until the recorded requests are `enough`.
    pub async fn wait_for(&self, enough: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        let mut heard = self.state.heard.subscribe();
        let waited = tokio::time::timeout(PATIENCE, heard.wait_for(|heard| enough(heard))).await.map(drop);
        waited.unwrap_or_else(|_| panic!("waited in vain; heard {:#?}", self.heard()));
        self.heard()
    }

    pub async fn wait_for_count(&self, count: usize) -> Vec<Request> {
        self.wait_for(|heard| heard.len() >= count).await
    }

    /// Waits for an event of a type.
    pub async fn wait_for_kind(&self, kind: &str) -> Vec<Request> {
        self.wait_for(|heard| heard.iter().any(|request| request.kind() == kind)).await
    }

    /// Waits until this many responses have been handed to the network.
    pub async fn wait_for_answers(&self, count: u64) {
        let mut answered = self.state.answered.subscribe();
        let waited = tokio::time::timeout(PATIENCE, answered.wait_for(|answered| *answered >= count)).await.map(drop);
        waited.expect("it answers in time");
    }

    pub fn body_bytes_sent(&self) -> u64 {
        self.state.body_bytes_sent.load(Ordering::Relaxed)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Returns the TOML of an endpoint.
pub fn endpoint_at(address: SocketAddr, name: &str, secret: &str, events: &str) -> String {
    format!(
        "[[webhooks.endpoints]]\nname = \"{name}\"\nurl = \"http://{address}/hook\"\nsecret = \"{secret}\"\nevents = {events}\n"
    )
}

/// Returns the address of a port without a listener.
pub async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn accept(listener: TcpListener, state: Arc<ReceiverState>) {
    // Dropped with the listener, which aborts the tasks.
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        open.spawn(serve(stream, Arc::clone(&state)));
    }
}

/// Serves one connection until it ends.
async fn serve(mut stream: TcpStream, state: Arc<ReceiverState>) {
    let mut unread = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut unread, &state.secret).await {
        let reply = (state.decide.lock().unwrap())(&request);
        state.heard.send_modify(|heard| heard.push(request));
        if state.carry_out(reply, &mut stream).await.is_none() {
            return;
        }
        state.answered.send_modify(|answered| *answered += 1);
    }
}

impl ReceiverState {
    /// Sends a reply. Returns `None` when the connection can no longer be used.
    async fn carry_out(&self, reply: Reply, stream: &mut TcpStream) -> Option<()> {
        let seldom = Duration::from_millis(50);
        match reply {
            Reply::Status(status) => self.answer(stream, status, b"").await,
            Reply::Body(status, body) => self.answer(stream, status, &body).await,
            Reply::Hold => {
                self.released.subscribe().wait_for(|released| *released).await.ok()?;
                self.answer(stream, "204 No Content", b"").await
            }
            Reply::Hang => std::future::pending().await,
            Reply::DripHead => {
                for byte in b"HTTP/1.1 200 OK\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
                    stream.write_all(&[*byte]).await.ok()?;
                    tokio::time::sleep(seldom).await;
                }
                None
            }
            Reply::DripBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await.ok()?;
                loop {
                    stream.write_all(b"x").await.ok()?;
                    tokio::time::sleep(seldom).await;
                }
            }
            Reply::Gigabyte => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n").await.ok()?;
                let chunk = vec![b'g'; 64 * 1024];
                for _ in 0..(1 << 30) / chunk.len() {
                    stream.write_all(&chunk).await.ok()?;
                    self.body_bytes_sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
                Some(())
            }
            Reply::Reset => {
                socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
                None
            }
        }
    }

    async fn answer(&self, stream: &mut TcpStream, status: &str, body: &[u8]) -> Option<()> {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body].concat()).await.ok()
    }
}

async fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>, secret: &str) -> Option<Request> {
    loop {
        if let Some((request, used)) = parse(unread, secret) {
            unread.drain(..used);
            return Some(request);
        }
        let mut buffer = [0; 16 * 1024];
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        unread.extend_from_slice(&buffer[..read]);
    }
}

/// Parses and verifies a whole request at the start of `bytes`. Returns it with its length.
fn parse(bytes: &[u8], secret: &str) -> Option<(Request, usize)> {
    let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_end]).unwrap();
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("POST /hook HTTP/1.1"), "webhooks P1: deliveries are POSTs");
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let end = head_end + headers["content-length"].parse::<usize>().unwrap();
    let raw = bytes.get(head_end..end)?.to_vec();
    let mut signed = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        signed.insert(name, headers[name].parse().unwrap());
    }
    Webhook::new(secret).unwrap().verify(&raw, &signed).expect("webhooks H5: the signature verifies");
    let json = serde_json::from_slice(&raw).expect("webhooks P1: the body is JSON");
    check_event(&json);
    Some((Request { id: headers["webhook-id"].clone(), headers, raw, json }, end))
}
