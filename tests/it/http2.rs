//! Uploads over HTTP/2: complete, rejected early, cut; and the limits of connections and windows.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use longshore::app::StopOutcome;
use longshore::config::Config;

use crate::support::app::TestApp;
use crate::support::client;
use crate::support::client::{OCTETS, TUS};
use crate::support::delayed::delayed;
use crate::support::http2::{Client, read};
use crate::support::moving::{is_whole, resume, wait_until_taken};
use crate::support::patience::until;
use crate::support::tls::{Certificate, connect, unwrapped};

const MIB: usize = 1024 * 1024;

/// A server with HTTP/2, and a plain address for the other requests of a test.
struct Encrypted {
    app: TestApp,
    certificate: Certificate,
    beside: SocketAddr,
}

impl Encrypted {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let certificate = Certificate::new();
        let app = TestApp::with(|config| {
            certificate.configure(config);
            change(config);
        })
        .await;
        let beside = unwrapped(certificate.connector(&["http/1.1"]), app.address()).await;
        Self { app, certificate, beside }
    }

    async fn client(&self) -> Client {
        Client::connect(self.app.address(), &self.certificate).await
    }

    /// Reports whether a client that supports both versions gets HTTP/2.
    async fn agrees_on_http2(&self) -> bool {
        let stream = connect(&self.certificate.connector(&["h2", "http/1.1"]), self.app.address()).await.unwrap();
        stream.get_ref().1.alpn_protocol() == Some(b"h2")
    }
}

fn source(size: usize) -> Bytes {
    (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_passes_with_and_without_its_length() {
    let server = Encrypted::start().await;
    let source = source(20 * MIB);
    for length in [Some(source.len() as u64), None] {
        let mut client = server.client().await;
        let path = client.create(source.len()).await;
        let mut patch = client.begin_patch(&path, 0, length).await;
        patch.send(source.clone()).await.unwrap();
        patch.end();
        let answer = patch.answer("PATCH").await;
        assert_eq!((answer.status, answer.header("upload-offset")), (204, Some("20971520")), "{answer:?}");
        assert_eq!(answer.header("content-length"), None, "RFC 9110, 8.6");
        assert!(answer.header("date").is_some() && answer.header("connection").is_none(), "{answer:?}");
        assert_eq!(client.offset(&path).await, 20_971_520);
        is_whole(server.beside, &path, &source).await;
        let download = client.begin("GET", &path, &[], true).await.answer("GET").await;
        assert_eq!((download.status, download.header("content-length")), (200, Some("20971520")));
        assert!(download.body == source);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_created_together_with_its_bytes() {
    let server = Encrypted::start().await;
    let mut client = server.client().await;
    let length = ("Upload-Length", "11");
    // A missing length is not the same as an empty body.
    let mut creation = client.begin("POST", "/files", &[TUS, OCTETS, length], false).await;
    creation.send(Bytes::from_static(b"hello world")).await.unwrap();
    creation.end();
    let created = creation.answer("POST").await;
    assert_eq!((created.status, created.header("upload-offset")), (201, Some("11")), "{created:?}");
    let location = created.header("location").unwrap();
    assert!(
        location.starts_with(&format!("https://{}/files/", server.app.address())),
        "the client connected directly: {location}"
    );
    is_whole(server.beside, &location[location.find("/files/").unwrap()..], b"hello world").await;

    let created = client.begin("POST", "/files", &[TUS, OCTETS, length], true).await.answer("POST").await;
    assert_eq!((created.status, created.header("upload-offset")), (201, Some("0")), "{created:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_longer_than_the_upload_is_refused() {
    let server = Encrypted::start().await;
    let mut client = server.client().await;
    for length in [Some(100), None] {
        let path = client.create(10).await;
        let mut patch = client.begin_patch(&path, 0, length).await;
        // The request may be rejected before all of it was sent.
        let _ = patch.send(Bytes::from(vec![1; 100])).await;
        let (answer, _) = patch.answer_and_body("PATCH").await;
        assert_eq!((answer.status, answer.problem().as_str()), (413, "beyond-length"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_refusal_is_told_at_once_and_ends_only_its_own_request() {
    let server = Encrypted::with(|config| config.limits.bodies.drain_timeout = Duration::from_secs(60)).await;
    let mut client = server.client().await;
    let path = client.create(1 << 30).await;
    for length in [Some(1 << 30), None] {
        let mut refused = client.begin_patch(&path, 5, length).await;
        // The request may be rejected before all of it was sent.
        let _ = refused.send(source(100_000)).await;
        let (answer, mut rest) = refused.answer_and_body("PATCH").await;
        assert_eq!((answer.status, answer.problem().as_str()), (409, "wrong-offset"), "{answer:?}");
        assert_eq!(rest.refused().await, Reason::NO_ERROR, "RFC 9113, 8.1");
        assert_eq!(client.offset(&path).await, 0, "the connection lives on");
    }
}

/// Many clients behave this way: they read the response only when everything is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_that_goes_on_sending_holds_up_nobody() {
    let server = Encrypted::start().await;
    let mut client = server.client().await;
    let path = client.create(1 << 30).await;
    for _ in 0..20 {
        let mut refused = client.begin_patch(&path, 5, None).await;
        // In total more than the connection's window. The server stops the body at some point.
        let _ = refused.send(source(2 * MIB)).await;
        assert_eq!(refused.answer("PATCH").await.status, 409);
    }
    let mut patch = client.begin_patch(&path, 0, None).await;
    patch.send(source(20 * MIB)).await.unwrap();
    wait_until_taken(server.beside, &path, 20 * MIB as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_before_a_reset_or_a_lost_connection_is_kept() {
    let server = Encrypted::start().await;
    let source = source(3 * MIB);
    for vanish in [false, true] {
        let mut client = server.client().await;
        let path = client.create(source.len()).await;
        let mut patch = client.begin_patch(&path, 0, Some(source.len() as u64)).await;
        patch.send(source.slice(..MIB)).await.unwrap();
        wait_until_taken(server.beside, &path, MIB as u64).await;
        if vanish {
            client.vanish();
        } else {
            patch.reset();
            assert_eq!(client.offset(&path).await, MIB as u64);
        }
        assert_eq!(resume(server.beside, &path, &source).await, MIB as u64, "vanish: {vanish}");
        is_whole(server.beside, &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_shorter_than_announced_is_no_success() {
    let server = Encrypted::start().await;
    let mut client = server.client().await;
    let path = client.create(100).await;
    let mut patch = client.begin_patch(&path, 0, Some(100)).await;
    patch.send(Bytes::from(vec![1; 60])).await.unwrap();
    wait_until_taken(server.beside, &path, 60).await;
    patch.end();
    assert_eq!(patch.refused().await, Reason::PROTOCOL_ERROR, "RFC 9113, 8.1.1");
    assert_eq!(client.offset(&path).await, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_falls_silent_is_told_and_its_bytes_are_kept() {
    let server = Encrypted::with(|config| config.limits.bodies.idle_timeout = Duration::from_millis(300)).await;
    let mut client = server.client().await;
    let path = client.create(100).await;
    let mut patch = client.begin_patch(&path, 0, Some(100)).await;
    patch.send(Bytes::from(vec![1; 60])).await.unwrap();
    let (answer, mut rest) = patch.answer_and_body("PATCH").await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "incomplete-body"), "{answer:?}");
    assert_eq!(rest.refused().await, Reason::NO_ERROR);
    assert_eq!(client.offset(&path).await, 60, "the connection lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_uploads_share_one_connection() {
    let server = Encrypted::start().await;
    let client = server.client().await;
    let clients: Vec<Client> = futures::future::join_all((0..4).map(|_| server.client())).await;
    let source = source(2 * MIB);
    let uploads = clients.into_iter().chain([client]).map(async |mut client| {
        let mut begun = Vec::new();
        for _ in 0..8 {
            let path = client.create(source.len()).await;
            begun.push((client.begin_patch(&path, 0, None).await, path));
        }
        for piece in source.chunks(256 * 1024) {
            for (patch, _) in &mut begun {
                patch.send(source.slice_ref(piece)).await.unwrap();
            }
        }
        for (mut patch, path) in begun {
            patch.end();
            assert_eq!(patch.answer("PATCH").await.status, 204);
            is_whole(server.beside, &path, &source).await;
        }
    });
    futures::future::join_all(uploads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_connections_speak_it() {
    let server = Encrypted::with(|config| config.http2.max_connections = 2).await;
    let (first, mut second) = (server.client().await, server.client().await);
    assert!(!server.agrees_on_http2().await, "no place is left");
    let beside = client::Client::connect(server.beside).await.get("/healthz").await;
    assert_eq!(beside.status, 200, "plain requests take no slot");
    first.vanish();
    until("a place is free", async || server.agrees_on_http2().await.then_some(())).await;
    assert_eq!(second.tus("GET", "/healthz", &[]).await.status, 200);
    let none = Encrypted::with(|config| config.http2.max_connections = 0).await;
    assert!(!none.agrees_on_http2().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_requests_and_bytes_are_taken_at_once() {
    let server = Encrypted::with(|config| config.http2.max_streams = 3).await;
    let mut client = server.client().await;
    let (path, another) = (client.create(1_000_000).await, client.create(1_000_000).await);
    assert_eq!(client.most_requests(), 3);
    let mut patch = client.begin_patch(&path, 0, None).await;
    assert_eq!(patch.room().await, MIB);
    let mut other = client.begin_patch(&another, 0, None).await;
    other.has_no_room().await;
}

/// Uploads `source` over a connection with latency, and returns the final size of the server's window in MiB.
/// A small part of it may not have been returned yet.
async fn upload_from_afar(server: &Encrypted, source: &Bytes) -> (Client, usize) {
    let far = delayed(server.app.address(), Duration::from_millis(25)).await;
    let mut client = Client::connect(far, &server.certificate).await;
    let path = client.create(source.len()).await;
    let mut patch = client.begin_patch(&path, 0, None).await;
    patch.send(source.clone()).await.unwrap();
    patch.end();
    assert_eq!(patch.answer("PATCH").await.status, 204);
    is_whole(server.beside, &path, source).await;
    let path = client.create(1 << 30).await;
    let mut next = client.begin_patch(&path, 0, None).await;
    // The part that the last upload used is returned one round trip later.
    let most = until("the window is open", async || {
        let room = next.room().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        (next.room().await == room).then_some(room)
    });
    (client, most.await.div_ceil(MIB))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_client_far_away_may_send_further_ahead() {
    let server = Encrypted::with(|config| config.http2.max_window_bytes = 8 << 20).await;
    let (_, most) = upload_from_afar(&server, &source(64 * MIB)).await;
    assert!((5..=8).contains(&most), "{most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn however_much_a_slow_client_sends_it_may_send_no_further_ahead() {
    let server = Encrypted::start().await;
    let mut client = server.client().await;
    let path = client.create(1 << 30).await;
    let mut patch = client.begin_patch(&path, 0, None).await;
    let piece = source(64 * 1024);
    for sent in 1..=48 {
        patch.send(piece.clone()).await.unwrap();
        wait_until_taken(server.beside, &path, sent * piece.len() as u64).await;
    }
    // The used part is returned when half of the window is used.
    assert!(patch.room().await <= MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_is_shared_by_all_connections() {
    let server = Encrypted::with(|config| {
        config.http2.max_connections = 2;
        config.http2.memory_bytes = 5 << 20;
    })
    .await;
    let source = source(32 * MIB);
    // Both begin with 1 MiB. The first is granted the remaining 3 MiB.
    let (first, most) = upload_from_afar(&server, &source).await;
    assert!((3..=4).contains(&most), "{most}");
    let (second, most) = upload_from_afar(&server, &source).await;
    assert_eq!(most, 1, "nothing is left");
    first.vanish();
    second.vanish();
    until("places are free", async || server.agrees_on_http2().await.then_some(())).await;
    let (_, most) = upload_from_afar(&server, &source).await;
    assert!((3..=4).contains(&most), "it came back: {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_refused() {
    let server = Encrypted::start().await;
    let mut client = server.client().await;
    let path = client.create(10).await;
    let long = "x".repeat(200_000);
    let begun = client.begin("HEAD", &path, &[TUS, ("X-Long", &long)], true).await;
    assert_eq!(begun.status().await, Ok(431), "RFC 6585, 5");
    assert_eq!(client.offset(&path).await, 0, "the connection lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_requests_is_closed_in_the_end() {
    let server = Encrypted::with(|config| config.limits.timeouts.keep_alive = Duration::from_millis(300)).await;
    let mut client = server.client().await;
    let path = client.create(10).await;
    // Not while a request is in progress, however long that takes.
    let mut patch = client.begin_patch(&path, 0, None).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        patch.send(Bytes::from_static(b"x")).await.unwrap();
    }
    patch.end();
    assert_eq!(patch.answer("PATCH").await.status, 204);
    client.is_ended_by_the_server().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_waits_for_no_idle_connection_but_answers_what_is_under_way() {
    let mut server = Encrypted::start().await;
    let (mut idle, mut busy) = (server.client().await, server.client().await);
    let path = busy.create(100).await;
    assert_eq!(idle.offset(&path).await, 0);
    let mut patch = busy.begin_patch(&path, 0, Some(100)).await;
    patch.send(Bytes::from(vec![1; 60])).await.unwrap();
    wait_until_taken(server.beside, &path, 60).await;
    let began = std::time::Instant::now();
    let (stopped, answer) = tokio::join!(server.app.stop(), patch.answer("PATCH"));
    assert_eq!(stopped, StopOutcome::Clean);
    assert!(began.elapsed() < Duration::from_secs(15), "it did not wait for the time it may take at most");
    assert_eq!((answer.status, answer.problem().as_str()), (503, "shutting-down"), "{answer:?}");
    idle.is_ended_by_the_server().await;
    busy.is_ended_by_the_server().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_cut() {
    let server = Encrypted::with(|config| config.limits.timeouts.reader = Duration::from_millis(500)).await;
    let mut client = server.client().await;
    let source = source(4 * MIB);
    let path = client.create(source.len()).await;
    let mut patch = client.begin_patch(&path, 0, None).await;
    patch.send(source.clone()).await.unwrap();
    patch.end();
    assert_eq!(patch.answer("PATCH").await.status, 204);
    let mut body = client.begin("GET", &path, &[], true).await.unread().await;
    // The client's window is full, and the client reads nothing.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let error = read(&mut body).await.expect_err("it broke off");
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    assert_eq!(client.offset(&path).await, source.len() as u64, "the connection lives on");
}
