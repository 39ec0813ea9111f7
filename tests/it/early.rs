//! Responses that are sent while the body is still arriving. A client that sends everything before it reads
//! receives each of them whole, directly and behind proxies; otherwise it would see a broken connection and
//! repeat the same request forever.

use std::net::SocketAddr;
use std::time::Duration;

use longshore::config::SecretText;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS, TUS};
use crate::support::front::Front;
use crate::support::moving::is_whole;

const MIB: usize = 1024 * 1024;
const TRIES: usize = 10;

/// A request that is rejected regardless of its body.
struct Refused {
    status: u16,
    problem: &'static str,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
}

impl Refused {
    fn new(
        status: u16,
        problem: &'static str,
        method: &'static str,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { status, problem, method, path: path.to_owned(), headers }
    }

    /// Sends head and body without reading meanwhile, then reads the response.
    async fn is_told(&self, address: SocketAddr, size: usize, chunked: bool, what: &str) {
        let what = format!("{what}, {} after {size} bytes, chunked: {chunked}", self.status);
        let telling = tokio::time::timeout(Duration::from_secs(30), self.tell(address, size, chunked));
        let answer = telling.await.unwrap_or_else(|_| panic!("{what}: the body was not even taken"));
        assert_eq!((answer.status, answer.problem().as_str()), (self.status, self.problem), "{what}: {answer:?}");
    }

    async fn tell(&self, address: SocketAddr, size: usize, chunked: bool) -> Answer {
        let mut client = Client::connect(address).await;
        let length = size.to_string();
        let mut headers: Vec<(&str, &str)> = self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.push(if chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", &length) });
        client.send_head(self.method, &self.path, &headers).await;
        let piece = vec![b'x'; 64 * 1024];
        for _ in 0..size / piece.len() {
            if chunked { client.send_chunk(&piece).await } else { client.send(&piece).await }
        }
        if chunked {
            client.send_chunk(b"").await;
        }
        client.answer(self.method).await
    }
}

/// Returns one request for each kind of rejection, with a description of what is wrong.
async fn refusals(app: &TestApp) -> Vec<Refused> {
    let mut client = app.client().await;
    let open = client.create(1 << 30).await;
    let small = client.create(10).await;
    let gone = client.create(1 << 30).await;
    assert_eq!(client.tus("DELETE", &gone, &[], b"").await.status, 204);
    let unknown = open.replace(|c: char| c.is_ascii_digit(), "7");
    let (at_0, at_5) = (("Upload-Offset", "0"), ("Upload-Offset", "5"));
    let sha1 = ("Upload-Checksum", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let too_long = ("Upload-Length", "99999999999999");
    vec![
        Refused::new(409, "wrong-offset", "PATCH", &open, &[TUS, OCTETS, at_5]),
        Refused::new(413, "beyond-length", "PATCH", &small, &[TUS, OCTETS, at_0]),
        Refused::new(413, "over-limit", "POST", "/files", &[TUS, OCTETS, too_long]),
        Refused::new(410, "upload-gone", "PATCH", &gone, &[TUS, OCTETS, at_0]),
        Refused::new(404, "no-such-upload", "PATCH", &unknown, &[TUS, OCTETS, at_0]),
        Refused::new(412, "unsupported-version", "PATCH", &open, &[("Tus-Resumable", "0.2.2"), OCTETS, at_0]),
        Refused::new(415, "wrong-content-type", "PATCH", &open, &[TUS, ("Content-Type", "video/mp4"), at_0]),
        Refused::new(460, "checksum-mismatch", "PATCH", &open, &[TUS, OCTETS, at_0, sha1]),
        Refused::new(400, "bad-header", "PATCH", &open, &[TUS, OCTETS, ("Upload-Offset", "+5")]),
        Refused::new(405, "method-not-allowed", "PUT", &open, &[TUS, OCTETS]),
        Refused::new(404, "not-found", "POST", "/nothing/here", &[TUS, OCTETS]),
    ]
}

async fn all_are_told(app: &TestApp, address: SocketAddr, through: &str) {
    for refused in refusals(app).await {
        for size in [64 * 1024, 5 * MIB] {
            for attempt in 0..TRIES {
                refused.is_told(address, size, attempt % 2 == 1, &format!("{through}, try {attempt}")).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_reaches_a_client_that_sends_all_before_it_reads() {
    let app = TestApp::start().await;
    all_are_told(&app, app.address(), "directly").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_reaches_a_client_behind_haproxy() {
    let app = TestApp::start().await;
    let Some(front) = Front::haproxy(app.address()).await else { return };
    all_are_told(&app, front.address, front.name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_reaches_a_client_behind_nginx() {
    let app = TestApp::start().await;
    let Some(front) = Front::nginx(app.address()).await else { return };
    all_are_told(&app, front.address, front.name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_token_is_told_while_the_body_still_arrives() {
    let app = TestApp::with(|config| config.auth.token = Some(SecretText::new("the-shared-token".to_owned()))).await;
    let refused = Refused::new(401, "unauthorized", "PATCH", "/files/x", &[TUS, OCTETS, ("Upload-Offset", "0")]);
    let (haproxy, nginx) = (Front::haproxy(app.address()).await, Front::nginx(app.address()).await);
    let fronts = haproxy.iter().chain(&nginx).map(|front| (front.name, front.address));
    for (name, address) in [("directly", app.address())].into_iter().chain(fronts) {
        for attempt in 0..TRIES {
            refused.is_told(address, 5 * MIB, attempt % 2 == 1, name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_uploads_pass_through_proxies_and_resume_behind_them() {
    let app = TestApp::start().await;
    let source = vec![5; 3 * MIB];
    let (haproxy, nginx) = (Front::haproxy(app.address()).await, Front::nginx(app.address()).await);
    for front in haproxy.iter().chain(&nginx) {
        let mut client = Client::connect(front.address).await;
        let path = client.create(source.len() as u64).await;
        client.begin_patch(&path, 0, source.len() as u64).await;
        client.send(&source[..MIB]).await;
        crate::support::moving::wait_until_taken(app.address(), &path, MIB as u64).await;
        client.rst();
        // The proxy may report the end late; the newest request wins all the same.
        assert_eq!(crate::support::moving::resume(front.address, &path, &source).await, MIB as u64, "{}", front.name);
        is_whole(front.address, &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_closed_after_an_early_answer_only_if_the_answer_says_so() {
    let app = TestApp::start().await;
    let path = app.client().await.create(1 << 30).await;
    for size in [0, 8, 64 * 1024, 5 * MIB] {
        let mut client = app.client().await;
        client.begin_patch(&path, 5, size as u64).await;
        client.send(&vec![b'x'; size]).await;
        let answer = client.answer("PATCH").await;
        assert_eq!(answer.status, 409);
        if answer.header("connection") == Some("close") {
            assert_ne!(size, 0, "nothing was left to arrive");
            assert!(client.read_until(b"HTTP").await.is_none(), "it closes, and nothing more comes");
        } else {
            assert_eq!(client.offset(&path).await, 0, "it lives on");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_stops_sending_is_cut() {
    let app = TestApp::with(|config| config.limits.bodies.drain_timeout = Duration::from_millis(300)).await;
    let path = app.client().await.create(1 << 30).await;
    for chunked in [false, true] {
        let mut client = app.client().await;
        let announced = if chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", "1073741824") };
        client.send_head("PATCH", &path, &[TUS, OCTETS, ("Upload-Offset", "5"), announced]).await;
        let (mut reading, mut writing) = client.stream.split();
        let sending = async {
            let piece = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
            while writing.write_all(&piece).await.is_ok() {}
        };
        let mut heard = Vec::new();
        let listening = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = reading.read(&mut buffer).await {
                heard.extend_from_slice(&buffer[..read]);
            }
        };
        let both = tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(sending, listening) });
        both.await.expect("the server ends an endless body");
        let heard = String::from_utf8_lossy(&heard);
        assert!(heard.starts_with("HTTP/1.1 409 ") && heard.contains("wrong-offset"), "{heard}");
        assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{heard}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_that_says_no_more_is_let_go() {
    let app = TestApp::with(|config| config.limits.bodies.drain_timeout = Duration::from_secs(60)).await;
    let path = app.client().await.create(1 << 30).await;
    let mut client = app.client().await;
    client.begin_patch(&path, 5, 1 << 30).await;
    client.send(&[b'x'; 100_000]).await;
    assert_eq!(client.answer("PATCH").await.status, 409);
    let ended = tokio::time::timeout(Duration::from_secs(20), client.read_until(b"HTTP"));
    assert!(ended.await.expect("long before the time for draining is over").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_does_not_wait_for_the_body() {
    let app = TestApp::with(|config| config.limits.bodies.drain_timeout = Duration::from_secs(60)).await;
    for refused in refusals(&app).await {
        // The checksum covers the whole body; everything else is known at once.
        if refused.status == 460 {
            continue;
        }
        let mut client = app.client().await;
        let headers = refused.headers.iter().map(|(name, value)| (*name, value.as_str()));
        let headers: Vec<_> = headers.chain([("Content-Length", "1073741824")]).collect();
        client.send_head(refused.method, &refused.path, &headers).await;
        let answer = client.answer(refused.method).await;
        assert_eq!((answer.status, answer.problem().as_str()), (refused.status, refused.problem));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_runs_past_the_length_is_refused_in_its_middle() {
    // tus 57: the bytes of that request are rolled back.
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = client.create(100_000).await;
    assert_eq!(client.patch(&path, 0, b"kept").await.status, 204);
    for _ in 0..TRIES {
        let refused = Refused::new(413, "beyond-length", "PATCH", &path, &[TUS, OCTETS, ("Upload-Offset", "4")]);
        refused.is_told(app.address(), 5 * MIB, true, "past the length").await;
    }
    assert_eq!(client.offset(&path).await, 4);
}
