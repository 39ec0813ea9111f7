//! Tests of interim responses among the other bytes written to a connection, whatever both ends do.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_server::Server;
use actix_service::{IntoServiceFactory, boxed, map_config};
use actix_web::dev::AppConfig;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{App, HttpRequest, HttpResponse, web};
use futures::StreamExt;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;
use crate::listen::buffered::BufferedStream;
use crate::listen::inflow::ReadAhead;
use crate::listen::interim::{Interim, Interims};
use crate::listen::wire::Wire;
use crate::refusals::Refusals;

/// Longer than any intended wait of a test.
const PATIENCE: Duration = Duration::from_secs(30);

const READERS: ReaderTimeouts = ReaderTimeouts { download: PATIENCE, answer: PATIENCE };
const LARGE: usize = 300_000;
const OFFSET: &str = "upload-offset";

/// State that the handlers under test and the test share.
#[derive(Default)]
struct Script {
    go_on: Notify,
    /// Handles that outlive their handlers.
    kept: RefCell<Vec<Interim>>,
    told: Cell<usize>,
    answered: Cell<bool>,
}

fn tell(interim: &Interim, offset: usize) -> bool {
    interim.send_104(&[(HeaderName::from_static(OFFSET), HeaderValue::from(offset))])
}

async fn play(request: HttpRequest, mut payload: web::Payload, script: web::Data<Script>) -> HttpResponse {
    let interim = Interim::of(&request).expect("this is HTTP/1.1");
    match request.path() {
        // Reports the number of bytes received whenever some arrive.
        "/body" => {
            let mut came = 0;
            assert!(tell(&interim, came));
            while let Some(Ok(chunk)) = payload.next().await {
                came += chunk.len();
                assert!(tell(&interim, came));
            }
            HttpResponse::Ok().body(came.to_string())
        }
        "/large" => HttpResponse::Ok().body("x".repeat(LARGE)),
        "/large-in-pieces" => {
            let piece = web::Bytes::from("x".repeat(1_000));
            let pieces = (0..LARGE / 1_000).map(move |_| Ok::<_, Infallible>(piece.clone()));
            HttpResponse::Ok().streaming(futures::stream::iter(pieces))
        }
        "/at-once" => {
            assert!(tell(&interim, 1));
            script.kept.borrow_mut().push(interim);
            HttpResponse::Ok().body("at once")
        }
        "/too-much" => {
            while tell(&interim, script.told.get()) {
                script.told.set(script.told.get() + 1);
            }
            script.go_on.notified().await;
            HttpResponse::Ok().body("that was all")
        }
        "/wait" => {
            assert!(tell(&interim, 1));
            script.kept.borrow_mut().push(interim);
            script.go_on.notified().await;
            script.answered.set(true);
            HttpResponse::Ok().body("waited")
        }
        other => panic!("{other} is no part of the script"),
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    script: &web::Data<Script>,
) -> Result<(), DispatchError> {
    let app = App::new().app_data(script.clone()).default_service(web::to(play));
    let app = map_config(app.into_factory(), |()| AppConfig::default());
    let answers = boxed::rc_service(app.new_service(()).await.unwrap());
    let stopping = Server::build().graceful_shutdown_signal();
    let service = http1(answers, stopping).await.unwrap();
    service.call((Http1Stream::new(stream, terms(), READERS, ReadAhead::new(READ_AHEAD_BYTES)), None)).await
}

/// Enough for a few connections.
const READ_AHEAD_BYTES: u64 = 1 << 20;

fn terms() -> FramingSettings {
    FramingSettings { header_timeout: PATIENCE, keep_alive: PATIENCE, peer: None, refusals: Refusals::default() }
}

/// Runs both ends of a connection until both are done.
async fn converse<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    server: S,
    script: &web::Data<Script>,
    client: impl Future<Output = ()>,
) -> Result<(), DispatchError> {
    let both = async { tokio::join!(serve(server, script), client) };
    tokio::time::timeout(PATIENCE, both).await.expect("no task waits forever").0
}

/// A client that reads a given number of bytes at a time.
struct Peer<S> {
    stream: S,
    at_a_time: usize,
    unread: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct Heard {
    status: u16,
    offset: Option<String>,
    body: Vec<u8>,
}

fn told(offset: usize) -> Heard {
    Heard { status: 104, offset: Some(offset.to_string()), body: Vec::new() }
}

fn answered(body: &str) -> Heard {
    Heard { status: 200, offset: None, body: body.into() }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    fn new(stream: S, at_a_time: usize) -> Self {
        Self { stream, at_a_time, unread: Vec::new() }
    }

    /// Sends requests, and adds the `Host` field to each.
    async fn say(&mut self, words: &str) {
        let words = words.replace(" HTTP/1.1\r\n", " HTTP/1.1\r\nHost: upload.test\r\n");
        self.stream.write_all(words.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Returns the next complete response; `None` at the end of the connection.
    async fn hear(&mut self) -> Option<Heard> {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await?).expect("a head is text");
        let status = head.strip_prefix("HTTP/1.1 ").expect("a response begins here")[..3].parse().unwrap();
        let field = |name: &str| {
            let fields = head.lines().filter_map(|line| line.split_once(": "));
            fields.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned()).next()
        };
        let mut body = Vec::new();
        if let Some(length) = field("content-length") {
            body = self.exactly(length.parse().unwrap()).await;
        } else if field("transfer-encoding").is_some() {
            while let Some(size) = self.chunk_size().await {
                body.extend(self.exactly(size).await);
                assert_eq!(self.exactly(2).await, b"\r\n");
            }
            assert_eq!(self.exactly(2).await, b"\r\n");
        }
        Some(Heard { status, offset: field(OFFSET), body })
    }

    async fn hears(&mut self, expected: Heard) {
        let heard = self.hear().await.expect("the connection goes on");
        let in_short = |heard: &Heard| (heard.status, heard.offset.clone(), heard.body.len());
        assert!(heard == expected, "heard {:?} instead of {:?}", in_short(&heard), in_short(&expected));
    }

    /// Expects this response. Offsets of smaller pieces may be reported before it.
    async fn hears_in_the_end(&mut self, expected: Heard) {
        let mut before = None;
        loop {
            let heard = self.hear().await.expect("the connection goes on");
            if heard == expected {
                return;
            }
            let offset = heard.offset.as_ref().and_then(|offset| offset.parse::<usize>().ok());
            assert!(heard.status == 104 && offset > before, "{heard:?} after {before:?}");
            before = offset;
        }
    }

    async fn chunk_size(&mut self) -> Option<usize> {
        let line = String::from_utf8(self.until(b"\r\n").await.unwrap()).expect("a size is text");
        Some(usize::from_str_radix(line.trim(), 16).expect("a chunk begins here")).filter(|size| *size > 0)
    }

    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return Some(self.unread.drain(..at + end.len()).collect());
            }
            if self.read().await == 0 {
                assert!(self.unread.is_empty(), "the connection ended in the middle of a response");
                return None;
            }
        }
    }

    async fn exactly(&mut self, size: usize) -> Vec<u8> {
        while self.unread.len() < size {
            assert_ne!(self.read().await, 0, "the connection ended in the middle of a body");
        }
        self.unread.drain(..size).collect()
    }

    async fn read(&mut self) -> usize {
        let mut buffer = vec![0; self.at_a_time];
        let read = self.stream.read(&mut buffer).await.unwrap();
        self.unread.extend_from_slice(&buffer[..read]);
        read
    }
}

/// Sends bodies in parts, each after the last one was reported: two with a length, one in chunks.
async fn upload_three_times<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut Peer<S>) {
    for _ in 0..2 {
        peer.say("POST /body HTTP/1.1\r\nContent-Length: 10\r\n\r\n").await;
        peer.hears(told(0)).await;
        peer.say("12345").await;
        peer.hears_in_the_end(told(5)).await;
        peer.say("67890").await;
        peer.hears_in_the_end(answered("10")).await;
    }
    peer.say("POST /body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    peer.hears(told(0)).await;
    peer.say("3\r\nabc\r\n").await;
    peer.hears_in_the_end(told(3)).await;
    peer.say("2\r\nde\r\n0\r\n\r\n").await;
    peer.hears_in_the_end(answered("5")).await;
}

#[tokio::test(flavor = "local")]
async fn a_client_is_told_while_its_body_is_waited_for_and_the_connection_lives_on() {
    for room in [1, 7, 64, 4096] {
        let (client, server) = duplex(room);
        let mut peer = Peer::new(client, room);
        converse(server, &web::Data::default(), async move { upload_three_times(&mut peer).await }).await.unwrap();
    }
}

/// Returns the ends of a connection. The server's send buffer is small, so little fits that its peer does not
/// read.
async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let server = listener.accept().await.unwrap().0;
    socket2::SockRef::from(&server).set_send_buffer_size(4096).unwrap();
    (client, server)
}

/// The same with TLS. The server's end is of the same type as in production.
async fn encrypted() -> (tokio_rustls::client::TlsStream<TcpStream>, Wire) {
    let made = rcgen::generate_simple_self_signed(["upload.test".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = connected().await;
    let name = "upload.test".try_into().unwrap();
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, near);
    let accepting = tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(BufferedStream::new(far));
    let (client, server) = tokio::join!(connecting, accepting);
    (client.unwrap(), Wire::Tls(Box::new(server.unwrap())))
}

#[tokio::test(flavor = "local")]
async fn a_client_is_told_under_tls() {
    let (client, server) = encrypted().await;
    let mut peer = Peer::new(client, 1_000);
    let asking = async move {
        upload_three_times(&mut peer).await;
        upload_between_large_answers(&mut peer, "/large").await;
        peer.stream.shutdown().await.unwrap();
        assert_eq!(peer.hear().await, None);
    };
    converse(server, &web::Data::default(), asking).await.unwrap();
}

/// Requests large responses and an upload in a single write.
async fn upload_between_large_answers<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut Peer<S>, large: &str) {
    let get = format!("GET {large} HTTP/1.1\r\n\r\n");
    let post = "POST /body HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
    peer.say(&format!("{get}{get}{post}")).await;
    for _ in 0..2 {
        peer.hears(answered(&"x".repeat(LARGE))).await;
    }
    peer.hears(told(0)).await;
    peer.say(&format!("abc{get}{post}")).await;
    peer.hears_in_the_end(answered("3")).await;
    peer.hears(answered(&"x".repeat(LARGE))).await;
    peer.hears(told(0)).await;
    peer.say("def").await;
    peer.hears_in_the_end(answered("3")).await;
}

#[tokio::test(flavor = "local")]
async fn nothing_is_told_inside_the_answer_before() {
    for large in ["/large", "/large-in-pieces"] {
        for room in [61, 1_000, 50_000] {
            let (client, server) = duplex(room);
            let mut peer = Peer::new(client, room);
            let asking = async move { upload_between_large_answers(&mut peer, large).await };
            converse(server, &web::Data::default(), asking).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "local")]
async fn what_has_not_begun_when_the_answer_does_is_never_told() {
    let (client, server) = duplex(4096);
    let script = web::Data::<Script>::default();
    let asking = async {
        let mut peer = Peer::new(client, 4096);
        let (at_once, large) = ("GET /at-once HTTP/1.1\r\n\r\n", "GET /large HTTP/1.1\r\n\r\n");
        peer.say(&format!("{at_once}{large}{at_once}")).await;
        peer.hears(answered("at once")).await;
        peer.hears(answered(&"x".repeat(LARGE))).await;
        peer.hears(answered("at once")).await;
        for left in script.kept.take() {
            assert!(!tell(&left, 2), "its request is answered");
        }
        peer.say(at_once).await;
        peer.hears(answered("at once")).await;
        peer.stream.shutdown().await.unwrap();
        assert_eq!(peer.hear().await, None);
    };
    converse(server, &script, asking).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn a_handle_that_is_left_does_not_speak_for_the_next_request() {
    let (client, server) = duplex(4096);
    let script = web::Data::<Script>::default();
    let asking = async {
        let mut peer = Peer::new(client, 4096);
        peer.say("GET /at-once HTTP/1.1\r\n\r\n").await;
        peer.hears(answered("at once")).await;
        peer.say("GET /wait HTTP/1.1\r\n\r\n").await;
        peer.hears(told(1)).await;
        let kept = script.kept.take();
        let [of_the_first, of_the_second] = &kept[..] else { panic!("both have left one") };
        assert!(!tell(of_the_first, 2));
        assert!(tell(of_the_second, 3));
        script.go_on.notify_one();
        // The flush comes after the handler, when its period has ended.
        peer.hears(answered("waited")).await;
        assert!(!tell(of_the_second, 4));
        peer.stream.shutdown().await.unwrap();
        assert_eq!(peer.hear().await, None);
    };
    converse(server, &script, asking).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn what_has_begun_is_finished_before_the_answer() {
    for room in [1, 10, 40] {
        let (client, server) = duplex(room);
        let script = web::Data::<Script>::default();
        let asking = async {
            let mut peer = Peer::new(client, room);
            peer.say("GET /wait HTTP/1.1\r\n\r\n").await;
            // The rest of it does not fit into the stream.
            peer.read().await;
            script.go_on.notify_one();
            while !script.answered.get() {
                tokio::task::yield_now().await;
            }
            peer.hears(told(1)).await;
            peer.hears(answered("waited")).await;
        };
        converse(server, &script, asking).await.unwrap();
    }
}

#[tokio::test(flavor = "local")]
async fn a_client_that_does_not_read_is_told_only_so_much() {
    let (client, server) = duplex(64);
    let script = web::Data::<Script>::default();
    let asking = async {
        let mut peer = Peer::new(client, 64);
        peer.say("GET /too-much HTTP/1.1\r\n\r\n").await;
        let mut heard = 0;
        peer.hears(told(heard)).await;
        heard += 1;
        while heard < script.told.get() {
            peer.hears(told(heard)).await;
            heard += 1;
        }
        assert!((50..200).contains(&heard), "{heard} were taken");
        script.go_on.notify_one();
        peer.hears(answered("that was all")).await;
    };
    converse(server, &script, asking).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn the_word_to_go_on_always_has_room() {
    let (client, server) = duplex(40);
    let script = web::Data::<Script>::default();
    let asking = async {
        let mut peer = Peer::new(client, 40);
        peer.say("GET /wait HTTP/1.1\r\n\r\n").await;
        peer.read().await;
        let interim = script.kept.borrow()[0].clone();
        let mut sent = 1;
        while tell(&interim, sent + 1) {
            sent += 1;
        }
        assert!(interim.send_continue());
        // What a handle outside of the handler queues is sent when the connection is polled next, which
        // happens while its peer reads.
        for offset in 1..=sent {
            peer.hears(told(offset)).await;
        }
        peer.hears(Heard { status: 100, offset: None, body: Vec::new() }).await;
        script.go_on.notify_one();
        peer.hears(answered("waited")).await;
    };
    converse(server, &script, asking).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn a_client_that_ends_its_side_is_still_told_and_answered() {
    let (client, server) = duplex(4096);
    let asking = async move {
        let mut peer = Peer::new(client, 4096);
        peer.say("POST /body HTTP/1.1\r\nContent-Length: 10\r\n\r\n").await;
        peer.hears(told(0)).await;
        peer.say("12345").await;
        peer.hears(told(5)).await;
        peer.stream.shutdown().await.unwrap();
        peer.hears(answered("5")).await;
        assert_eq!(peer.hear().await, None);
    };
    converse(server, &web::Data::default(), asking).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn a_handle_sends_nothing_after_a_reset() {
    let (client, server) = connected().await;
    let script = web::Data::<Script>::default();
    let asking = async {
        let mut peer = Peer::new(client, 4096);
        peer.say("POST /wait HTTP/1.1\r\nContent-Length: 10\r\n\r\n").await;
        peer.hears(told(1)).await;
        let client = peer.stream.into_std().unwrap();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let ended = converse(server, &script, asking).await;
    assert!(matches!(ended, Err(DispatchError::Io(error)) if error.kind() == ErrorKind::ConnectionReset));
    assert!(!script.answered.get(), "the handler was dropped");
    assert!(!tell(&script.kept.borrow()[0], 2));
}

#[test]
fn only_requests_of_http_1_1_have_a_turn() {
    let elsewhere = Request::new();
    assert!(InterimPeriod::begin(&elsewhere).is_none() && Interim::of(&elsewhere).is_none());
}

#[tokio::test(flavor = "local")]
async fn a_client_of_http_1_0_is_told_nothing() {
    async fn silent(request: HttpRequest) -> HttpResponse {
        assert!(Interim::of(&request).is_none() && request.conn_data::<Interims>().is_some());
        HttpResponse::Ok().finish()
    }
    let (client, server) = duplex(4096);
    let app = map_config(App::new().default_service(web::to(silent)).into_factory(), |()| AppConfig::default());
    let answers = boxed::rc_service(app.new_service(()).await.unwrap());
    let service = http1(answers, Server::build().graceful_shutdown_signal()).await.unwrap();
    let mut peer = Peer::new(client, 4096);
    peer.say("POST / HTTP/1.0\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n").await;
    let heard = async {
        let mut heard = String::new();
        peer.stream.read_to_string(&mut heard).await.unwrap();
        heard
    };
    let (served, heard) = tokio::join!(
        service.call((Http1Stream::new(server, terms(), READERS, ReadAhead::new(READ_AHEAD_BYTES)), None)),
        heard
    );
    served.unwrap();
    assert!(heard.starts_with("HTTP/1.0 200 ") && heard.matches("HTTP/").count() == 1, "{heard}");
}
