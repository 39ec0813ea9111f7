//! A webhook receiver that records and verifies each request, and accepts all of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::schema::check_event;

pub const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A receiver on a free port.
pub struct Receiver {
    pub address: SocketAddr,
    heard: Arc<Heard>,
}

struct Heard {
    deliveries: Mutex<Vec<Delivery>>,
    news: Notify,
}

/// One request, with a signature that was verified.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub body: Value,
}

impl Delivery {
    pub fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap()
    }

    pub fn sequence(&self) -> u64 {
        self.body["data"]["sequence"].as_u64().unwrap()
    }
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Heard { deliveries: Mutex::default(), news: Notify::new() });
        let hearing = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(hear(stream, Arc::clone(&hearing)));
            }
        });
        Self { address, heard }
    }

    /// Returns the TOML of an endpoint that sends to this receiver.
    pub fn endpoint(&self, events: &str) -> String {
        format!(
            "[[webhooks.endpoints]]\nurl = \"http://{}/hook\"\nsecret = \"{SECRET}\"\nevents = {events}\n",
            self.address
        )
    }

    pub fn deliveries(&self) -> Vec<Delivery> {
        self.heard.deliveries.lock().unwrap().clone()
    }

    /// Waits until the recorded requests are `enough`.
    pub async fn wait_for(&self, enough: impl Fn(&[Delivery]) -> bool) -> Vec<Delivery> {
        let waiting = async {
            loop {
                let news = self.heard.news.notified();
                let deliveries = self.deliveries();
                if enough(&deliveries) {
                    return deliveries;
                }
                news.await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        waited.unwrap_or_else(|_| panic!("waited in vain; heard {:#?}", self.deliveries()))
    }

    /// Waits for an event of a type.
    pub async fn wait_for_kind(&self, kind: &str) -> Vec<Delivery> {
        self.wait_for(|heard| heard.iter().any(|delivery| delivery.kind() == kind)).await
    }
}

async fn hear(mut stream: TcpStream, heard: Arc<Heard>) {
    let mut bytes = Vec::new();
    loop {
        let Some((delivery, used)) = parse(&bytes) else {
            let mut buffer = [0; 16 * 1024];
            match stream.read(&mut buffer).await {
                Ok(read) if read > 0 => bytes.extend_from_slice(&buffer[..read]),
                _ => return,
            }
            continue;
        };
        bytes.drain(..used);
        heard.deliveries.lock().unwrap().push(delivery);
        heard.news.notify_waiters();
        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// Parses and verifies a whole request at the start of `bytes`. Returns it with its length.
fn parse(bytes: &[u8]) -> Option<(Delivery, usize)> {
    let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_end]).unwrap();
    let mut lines = head.split("\r\n");
    assert!(lines.next().unwrap().starts_with("POST "), "webhooks P1: deliveries are POSTs");
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let end = head_end + headers["content-length"].parse::<usize>().unwrap();
    let body = bytes.get(head_end..end)?;
    let mut signed = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        signed.insert(name, headers[name].parse().unwrap());
    }
    Webhook::new(SECRET).unwrap().verify(body, &signed).expect("webhooks H5: the signature verifies");
    let delivery = Delivery { body: serde_json::from_slice(body).expect("webhooks P1: the body is JSON") };
    check_event(&delivery.body);
    Some((delivery, end))
}
