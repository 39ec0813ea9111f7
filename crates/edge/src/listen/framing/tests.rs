use std::future::poll_fn;

use actix_web::http::StatusCode;
use futures::FutureExt;
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::*;
use crate::listen::inflow::ReadAhead;

const HEAD: &str = "PATCH /files/x HTTP/1.1\r\nHost: x\r\n";

/// A connection as the HTTP layer sees it.
struct Connection {
    peer: DuplexStream,
    stream: DuplexStream,
    framing: Framing,
    exchange: Exchange,
    inflow: Inflow,
    refusals: Refusals,
}

impl Connection {
    fn new() -> Self {
        let (peer, stream) = tokio::io::duplex(1024 * 1024);
        let (exchange, refusals) = (Exchange::default(), Refusals::default());
        let settings = FramingSettings {
            header_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(75),
            peer: None,
            refusals: refusals.clone(),
        };
        let framing = Framing::new(settings, exchange.clone());
        Self { peer, stream, framing, exchange, inflow: Inflow::default(), refusals }
    }

    async fn says(&mut self, words: impl AsRef<[u8]>) {
        self.peer.write_all(words.as_ref()).await.unwrap();
    }

    /// Reads once into a buffer of this size; `None` at the end of the stream.
    async fn read(&mut self, room: usize) -> Option<String> {
        let mut buffer = vec![0; room];
        let mut buf = ReadBuf::new(&mut buffer);
        poll_fn(|cx| self.framing.poll_read(Pin::new(&mut self.stream), &self.inflow, cx, &mut buf)).await.unwrap();
        Some(String::from_utf8_lossy(buf.filled()).into_owned()).filter(|read| !read.is_empty())
    }

    /// Returns all bytes that are passed on at this time.
    async fn hears(&mut self, room: usize) -> String {
        let mut heard = String::new();
        // The runtime limits the number of reads of a task before it must yield.
        while let Some(Some(more)) = tokio::task::unconstrained(self.read(room)).now_or_never() {
            heard.push_str(&more);
        }
        heard
    }

    /// Completes and sends the response to the current request.
    async fn answers(&mut self) {
        drop(crate::listen::exchange::AnswerBody::new(actix_web::body::BoxBody::new(()), Some(self.exchange.clone())));
        poll_fn(|cx| {
            self.framing.flushed(cx);
            Poll::Ready(())
        })
        .await;
    }
}

fn requests() -> [String; 4] {
    [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        format!("{HEAD}Content-Length: 5\r\n\r\nhello"),
        format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        format!("{HEAD}Content-Length: 20000\r\n\r\n{}", "x".repeat(20_000)),
    ]
}

#[tokio::test(start_paused = true)]
async fn requests_are_handed_on_one_by_one_however_they_come_and_are_read() {
    for (pieces, room) in [(1, 8_192), (7, 8_192), (1_000_000, 8_192), (1_000_000, 10), (1_000_000, 100_000)] {
        let mut connection = Connection::new();
        let all = requests().concat();
        if pieces == 1_000_000 {
            connection.says(&all).await;
        }
        let mut sent = if pieces == 1_000_000 { all.len() } else { 0 };
        for request in requests() {
            let mut heard = String::new();
            while heard.len() < request.len() {
                let piece = &all[sent..(sent + pieces).min(all.len())];
                connection.says(piece).await;
                sent += piece.len();
                heard.push_str(&connection.hears(room).await);
            }
            assert!(heard == request, "in pieces of {pieces}, read by {room}");
            assert_eq!(connection.hears(room).await, "", "the next one waits for the answer");
            connection.answers().await;
        }
        assert!(connection.held_nothing());
    }
}

impl Connection {
    fn held_nothing(&self) -> bool {
        self.framing.held.capacity() == 0
    }
}

#[tokio::test(start_paused = true)]
async fn every_head_has_its_time_and_a_silent_connection_has_another() {
    let mut connection = Connection::new();
    let second = Duration::from_secs(1);
    let began = Instant::now();
    for _ in 0..3 {
        // Idle for long, and then slow, but within the deadline.
        connection.says("GET / HTTP/1.1\r\n").await;
        assert_eq!(connection.hears(100).await, "");
        tokio::time::advance(9 * second).await;
        connection.says("Host: x\r\n\r\n").await;
        assert_ne!(connection.hears(100).await, "");
        tokio::time::advance(100 * second).await;
        assert_eq!(connection.read(100).now_or_never(), None, "an answer takes as long as it takes");
        connection.answers().await;
        tokio::time::advance(74 * second).await;
        assert_eq!(connection.hears(100).await, "");
    }
    let idle = Instant::now();
    for letter in ["G", "E", "T", " ", "/"] {
        connection.says(letter).await;
        assert_eq!(connection.hears(100).await, "");
        tokio::time::advance(second).await;
    }
    assert_eq!(connection.read(100).await, None, "it ends");
    assert_eq!(idle.elapsed(), 10 * second, "ten seconds after the first byte, regardless of later ones");

    let mut silent = Connection::new();
    let connected = Instant::now();
    assert_eq!(silent.read(100).await, None);
    assert_eq!(connected.elapsed(), 10 * second, "the first head is awaited from the beginning");
    let mut idle = Connection::new();
    idle.says("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_ne!(idle.hears(100).await, "");
    idle.answers().await;
    let answered = Instant::now();
    assert_eq!(idle.read(100).await, None);
    assert_eq!(answered.elapsed(), 75 * second);
    assert!(began.elapsed() > 75 * second);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_becomes_a_request_whose_answer_is_the_refusal() {
    for (said, method, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "GET", StatusCode::BAD_REQUEST),
        ("HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", "HEAD", StatusCode::BAD_REQUEST),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "GET", StatusCode::NOT_IMPLEMENTED),
    ] {
        for split in [0, 10] {
            let mut connection = Connection::new();
            connection.says(&said[..split]).await;
            assert_eq!(connection.hears(4_096).await, "");
            connection.says(&said[split..]).await;
            connection.says("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
            let heard = connection.hears(4_096).await;
            assert_eq!(heard, format!("{method} / HTTP/1.1\r\nhost: refused\r\ncontent-length: 1\r\n\r\n"));
            let rejection = connection.exchange.take_rejection().expect("it is there for the answer");
            assert_eq!(rejection.respond_alone().status(), status);
            connection.answers().await;
            connection.says("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert_eq!(connection.hears(4_096).await, "", "nothing more is a request");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_body_ends_where_it_is_broken() {
    let body = "5\r\nhello\r\n5\r\nagainXX";
    let mut connection = Connection::new();
    connection.says(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{body}")).await;
    let heard = connection.hears(4_096).await;
    assert!(heard.ends_with("5\r\nagain"), "{heard}");
    assert_eq!(connection.exchange.breaks_at(), Some(10));
    assert!(connection.held_nothing());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_goes_on_and_on_is_heard_only_so_far() {
    let mut connection = Connection::new();
    connection.says("\u{16}").await;
    assert_ne!(connection.hears(4_096).await, "");
    connection.says(vec![b'x'; MAX_IGNORED_BYTES - 1]).await;
    assert_eq!(connection.read(4_096).now_or_never(), None);
    connection.says("x").await;
    assert_eq!(connection.read(4_096).await, None);

    // Also behind a request that is not answered yet.
    let mut connection = Connection::new();
    connection.says(&requests()[0]).await;
    assert_ne!(connection.hears(4_096).await, "");
    connection.says(vec![b'x'; 10 * MAX_HELD_BYTES]).await;
    assert_eq!(connection.hears(4_096).await, "");
    assert!(connection.framing.held.len() < MAX_HELD_BYTES + 4_096, "{}", connection.framing.held.len());
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_handed_on_as_it_is_allowed() {
    let mut connection = Connection::new();
    connection.says("PATCH / HTTP/1.1\r\n").await;
    assert_eq!(connection.hears(4_096).await, "");
    connection.says("Host: x\r\nContent-Length: 1000\r\n\r\n").await;
    connection.says("x".repeat(1_000)).await;
    let head = connection.read(56).await.unwrap();
    assert!(head.ends_with("\r\n\r\nx") || head.len() == 56, "{head}");
    let read_limit = connection.inflow.limit_reads();
    assert_eq!(connection.read(4_096).now_or_never(), None, "no memory is free for it");
    read_limit.allow(10);
    assert_eq!(connection.hears(4_096).await, "x".repeat(10));
    drop(read_limit);
    assert!(connection.hears(4_096).await.len() > 900);
    let _ = &connection.refusals;
}

#[tokio::test(start_paused = true)]
async fn a_head_longer_than_the_allowance_is_handed_on_whole() {
    let mut connection = Connection::new();
    connection.inflow = Inflow::metered(ReadAhead::new(0));
    let head =
        format!("PATCH / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\nContent-Length: 90000\r\n\r\n", "y".repeat(20_000));
    let (beginning, rest) = head.split_at(9_000);
    connection.says(beginning).await;
    assert_eq!(connection.hears(4_096).await, "");
    connection.says(format!("{rest}{}", "x".repeat(30_000))).await;
    let heard = connection.hears(4_096).await;
    assert!(heard.starts_with(&head), "{}", heard.len());
    assert!(heard.len() < head.len() + 30_000, "the body waits to be asked for");
    connection.inflow.want_body();
    assert!(connection.read(4_096).now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_stream_comes_behind_all_requests() {
    let mut connection = Connection::new();
    let [get, ..] = requests();
    connection.says(format!("{get}{get}")).await;
    connection.peer.shutdown().await.unwrap();
    assert_eq!(connection.hears(4_096).await, get);
    assert_eq!(connection.read(4_096).now_or_never(), None);
    connection.answers().await;
    assert_eq!(connection.hears(4_096).await, get);
    assert_eq!(connection.read(4_096).await, None, "the HTTP layer may know while it answers");
}
