//! Reads Server-Sent Events from a raw connection.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::client::{Answer, Client};
use crate::support::patience::PATIENCE;

/// An open stream of events.
pub struct Sse(Client);

/// One item of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Message(Message),
    /// A comment line that keeps the connection alive.
    Comment,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: Option<String>,
    pub event: String,
    pub data: String,
}

impl Message {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

impl Sse {
    /// Requests a stream. Returns the response if it is not a stream.
    pub async fn ask(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        let mut client = Client::connect(address).await;
        client.send_head("GET", path, headers).await;
        // Of a stream only the head is read; any other response is read to its end.
        let mut first = [0; 12];
        loop {
            let seen = tokio::time::timeout(PATIENCE, client.stream.peek(&mut first)).await.unwrap().unwrap();
            assert!(seen > 0, "the server answers");
            if seen == first.len() {
                break;
            }
        }
        if &first != b"HTTP/1.1 200" {
            return Err(client.answer("GET").await);
        }
        let head = String::from_utf8(client.read_until(b"\r\n\r\n").await.unwrap()).unwrap().to_ascii_lowercase();
        for expected in [
            "content-type: text/event-stream",
            "cache-control: no-store",
            "x-accel-buffering: no",
            "transfer-encoding: chunked",
            "x-request-id: ",
        ] {
            assert!(head.contains(expected), "{expected} is not in {head}");
        }
        Ok(Self(client))
    }

    pub async fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::ask(address, path, headers).await.unwrap_or_else(|answer| panic!("no stream but {answer:?}"))
    }

    /// Returns the next item, or `None` at the end of the stream.
    pub async fn item(&mut self) -> Option<Item> {
        let chunk = tokio::time::timeout(PATIENCE, self.chunk()).await.expect("the stream says something in time")?;
        let text = String::from_utf8(chunk).unwrap();
        let block = text.strip_suffix("\n\n").expect("an item ends with an empty line");
        if block.starts_with(':') {
            return Some(Item::Comment);
        }
        let field = |name: &str| {
            let mut found = block.split('\n').filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let value = found.next().map(str::to_owned);
            assert_eq!(found.next(), None, "{name} stands there once");
            value
        };
        let (event, data) = (field("event").unwrap(), field("data").unwrap());
        Some(Item::Message(Message { id: field("id"), event, data }))
    }

    /// Returns the next message, or `None` at the end of the stream.
    pub async fn message(&mut self) -> Option<Message> {
        let passing_comments = async {
            loop {
                if let Item::Message(message) = self.item().await? {
                    return Some(message);
                }
            }
        };
        tokio::time::timeout(PATIENCE, passing_comments).await.expect("there is a message in time")
    }

    /// Returns the next message with an id, or `None` at the end of the stream.
    pub async fn event(&mut self) -> Option<Message> {
        loop {
            let message = self.message().await?;
            if message.id.is_some() {
                return Some(message);
            }
        }
    }

    /// Returns all messages with an id up to the end.
    pub async fn rest(&mut self) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(event) = self.event().await {
            all.push(event);
        }
        all
    }

    /// Reads one chunk. The server writes one item at a time, so each item is a separate chunk.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = String::from_utf8(self.0.read_until(b"\r\n").await?).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = Vec::new();
        while chunk.len() < size + 2 {
            chunk.extend(self.0.read_until(b"\r\n").await?);
        }
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }
}
