//! An HTTP/2 client for tests: it sends part of a body, resets streams, or disconnects.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::future::poll_fn;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use tokio::task::JoinHandle;

use crate::support::client::{Answer, OCTETS, TUS};
use crate::support::patience::PATIENCE;
use crate::support::tls::{Certificate, connect};

/// One connection.
pub struct Client {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    /// The authority that its requests name.
    pub authority: String,
}

/// A request that has begun.
pub struct Begun {
    answer: ResponseFuture,
    body: SendStream<Bytes>,
}

impl Client {
    pub async fn connect(address: SocketAddr, certificate: &Certificate) -> Self {
        Self::connect_with(address, certificate, &mut h2::client::Builder::new()).await
    }

    /// Connects without a receive window, so the server can send no body.
    pub async fn without_window(address: SocketAddr, certificate: &Certificate) -> Self {
        Self::connect_with(address, certificate, h2::client::Builder::new().initial_window_size(0)).await
    }

    async fn connect_with(address: SocketAddr, certificate: &Certificate, builder: &mut h2::client::Builder) -> Self {
        let stream = connect(&certificate.connector(&["h2"]), address).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        // It sends as far ahead as the server permits.
        builder.max_send_buffer_size(1 << 30);
        let (requests, connection) = builder.handshake(stream).await.unwrap();
        Self { requests, connection: tokio::spawn(connection), authority: address.to_string() }
    }

    /// Sends the head of a request; with `ends` it also says that there is no body.
    pub async fn begin(&mut self, method: &str, path: &str, headers: &[(&str, &str)], ends: bool) -> Begun {
        let mut request = http::Request::builder().method(method).uri(format!("https://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut ready = self.requests.clone().ready().await.unwrap();
        let (answer, body) = ready.send_request(request.body(()).unwrap(), ends).unwrap();
        Begun { answer, body }
    }

    /// Begins to append to an upload; without a length the server learns the size at the end.
    pub async fn begin_patch(&mut self, path: &str, offset: u64, length: Option<u64>) -> Begun {
        let (offset, length) = (offset.to_string(), length.map(|length| length.to_string()));
        let mut headers = vec![TUS, OCTETS, ("Upload-Offset", offset.as_str())];
        headers.extend(length.as_deref().map(|length| ("Content-Length", length)));
        self.begin("PATCH", path, &headers, false).await
    }

    /// Sends a whole tus request.
    pub async fn tus(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![TUS];
        all.extend_from_slice(headers);
        let begun = self.begin(method, path, &all, true).await;
        begun.answer(method).await
    }

    pub async fn create(&mut self, length: usize) -> String {
        let answer = self.tus("POST", "/files", &[("Upload-Length", &length.to_string())]).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let location = answer.header("location").expect("a creation says where");
        location[location.find("/files/").expect("an upload")..].to_owned()
    }

    pub async fn offset(&mut self, path: &str) -> u64 {
        let answer = self.tus("HEAD", path, &[]).await;
        answer.header("upload-offset").unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
    }

    /// Returns the number of concurrent requests that the server permits.
    pub fn most_requests(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Drops the connection without closing it properly.
    pub fn vanish(self) {
        self.connection.abort();
    }

    /// Waits until the server has ended the connection for a reason other than this client.
    pub async fn is_ended_by_the_server(&mut self) {
        let ended = tokio::time::timeout(PATIENCE, &mut self.connection).await.expect("the server ends it").unwrap();
        // The client's last frame may arrive after the server has closed.
        assert!(ended.as_ref().err().is_none_or(h2::Error::is_io), "{ended:?}");
    }
}

impl Begun {
    /// Sends bytes as the server permits it. Returns an error if the server does not want them.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), h2::Error> {
        while !bytes.is_empty() {
            self.body.reserve_capacity(bytes.len());
            let room = tokio::time::timeout(PATIENCE, poll_fn(|cx| self.body.poll_capacity(cx)));
            let Some(room) = room.await.expect("the server takes them") else {
                return Err(h2::Reason::STREAM_CLOSED.into());
            };
            self.body.send_data(bytes.split_to(room?.min(bytes.len())), false)?;
        }
        Ok(())
    }

    /// Returns the number of bytes that the server accepts before it has to grant more.
    pub async fn room(&mut self) -> usize {
        self.body.reserve_capacity(1 << 30);
        if self.body.capacity() == 0 {
            let room = tokio::time::timeout(PATIENCE, poll_fn(|cx| self.body.poll_capacity(cx))).await;
            room.expect("the server takes some").unwrap().unwrap();
        }
        self.body.capacity()
    }

    /// Asserts that the server accepts no bytes for now.
    pub async fn has_no_room(&mut self) {
        self.body.reserve_capacity(1 << 30);
        let room = tokio::time::timeout(Duration::from_millis(200), poll_fn(|cx| self.body.poll_capacity(cx))).await;
        assert!(room.is_err(), "{room:?}");
    }

    pub fn end(&mut self) {
        self.body.send_data(Bytes::new(), true).unwrap();
    }

    pub fn reset(&mut self) {
        self.body.send_reset(h2::Reason::CANCEL);
    }

    /// Returns the reason why the server accepts no more of the body.
    pub async fn refused(&mut self) -> h2::Reason {
        tokio::time::timeout(PATIENCE, poll_fn(|cx| self.body.poll_reset(cx))).await.expect("it says so").unwrap()
    }

    /// Reads the response, and checks the properties that every response must have.
    pub async fn answer(self, method: &str) -> Answer {
        let (answer, _) = self.answer_and_body(method).await;
        answer
    }

    /// Returns the response, and the rest of the request.
    pub async fn answer_and_body(self, method: &str) -> (Answer, Self) {
        let Self { mut answer, body } = self;
        let head = tokio::time::timeout(PATIENCE, &mut answer).await.expect("an answer in time").unwrap();
        let (head, mut rest) = head.into_parts();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let answered = Answer {
            location_as_sent: None,
            status: head.status.as_u16(),
            reason: String::new(),
            headers: headers.collect(),
            body: read(&mut rest).await.unwrap(),
        };
        answered.check_debts(method);
        (answered, Self { answer, body })
    }

    /// Returns only the status of the response, or the reason why there is none.
    pub async fn status(self) -> Result<u16, Option<h2::Reason>> {
        let answered = tokio::time::timeout(PATIENCE, self.answer).await.expect("an answer in time");
        answered.map(|answer| answer.status().as_u16()).map_err(|error| error.reason())
    }

    /// Returns the rest of the response's body unread, for tests that must not read it at once.
    pub async fn unread(self) -> RecvStream {
        tokio::time::timeout(PATIENCE, self.answer).await.expect("an answer in time").unwrap().into_body()
    }
}

/// Reads to the end, or to the point where the body breaks off.
pub async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = tokio::time::timeout(PATIENCE, body.data()).await.expect("more in time") {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
