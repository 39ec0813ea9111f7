//! Connections that end at every possible moment, and uploads that resume from there with the right bytes.

use std::time::Duration;

use domain::checksum::Algorithm;
use sha2::Digest as _;

use crate::support::app::TestApp;
use crate::support::client::{Client, OCTETS, TUS};
use crate::support::moving::{
    Watcher, is_whole, resume, wait_for_stage, wait_until_at_rest, wait_until_committed, wait_until_live,
    wait_until_taken,
};
use crate::support::patience::until;
use crate::support::seeded::Seeded;

const SIZE: usize = 200_000;

/// The way in which a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Fin,
    Rst,
}

impl Cut {
    const BOTH: [Self; 2] = [Self::Fin, Self::Rst];

    async fn end(self, client: Client) {
        match self {
            Self::Fin => client.fin().await,
            Self::Rst => client.rst(),
        }
    }
}

fn source() -> Vec<u8> {
    Seeded::new(7).bytes(SIZE)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_goes_on_from_exactly_what_arrived() {
    // tus 59: what arrived before the cut is kept, and the offset is exactly that.
    let app = TestApp::start().await;
    let source = source();
    for cut in Cut::BOTH {
        for sent in [0, 1, 65_536, SIZE / 2, SIZE - 1, SIZE] {
            let path = app.client().await.create(SIZE as u64).await;
            let watcher = Watcher::start(app.address(), &path);
            let mut client = app.client().await;
            client.begin_patch(&path, 0, SIZE as u64).await;
            client.send(&source[..sent]).await;
            // A reset may overtake bytes that were not read yet; bytes received before it are never lost.
            wait_until_taken(app.address(), &path, sent as u64).await;
            cut.end(client).await;
            wait_until_committed(app.address(), &path, sent as u64).await;
            if sent == SIZE {
                // The response is lost, but the upload is not: it completes without its client.
                wait_for_stage(app.address(), &path, "completed").await;
                assert_eq!(app.client().await.offset(&path).await, SIZE as u64);
            } else {
                assert_eq!(resume(app.address(), &path, &source).await, sent as u64, "{cut:?} after {sent}");
            }
            is_whole(app.address(), &path, &source).await;
            assert!(watcher.stop().await <= SIZE as u64);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_at_once_finds_an_offset_it_can_use() {
    let app = TestApp::start().await;
    let source = source();
    for cut in Cut::BOTH {
        for sent in [0, 1, 1_000, SIZE - 1] {
            let path = app.client().await.create(SIZE as u64).await;
            let mut client = app.client().await;
            client.begin_patch(&path, 0, SIZE as u64).await;
            wait_until_live(app.address(), &path).await;
            client.send(&source[..sent]).await;
            cut.end(client).await;
            // The server may not have seen the cut yet, nor the last bytes before it.
            assert!(resume(app.address(), &path, &source).await <= sent as u64);
            is_whole(app.address(), &path, &source).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_in_the_head_of_a_request_changes_nothing() {
    let app = TestApp::start().await;
    let source = source();
    for cut in Cut::BOTH {
        let path = app.client().await.create(SIZE as u64).await;
        for part in ["PA", "PATCH /fi", "PATCH {path} HTTP/1.1\r\nTus-Resumable: 1.0.0\r\nUpload-Off"] {
            let mut client = app.client().await;
            client.send(part.replace("{path}", &path).as_bytes()).await;
            cut.end(client).await;
        }
        assert_eq!(resume(app.address(), &path, &source).await, 0);
        is_whole(app.address(), &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_may_be_cut_anywhere() {
    let app = TestApp::start().await;
    let source = source();
    let chunked = [TUS, OCTETS, ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked")];
    for cut in Cut::BOTH {
        // After whole chunks; in the size of a chunk; in its bytes; before the line end that closes it.
        for (rest, more) in [("", 0), ("27", 0), ("2710\r\n", 0), ("2710\r\n", 4_000), ("2710\r\n", 10_000)] {
            let path = app.client().await.create(SIZE as u64).await;
            let mut client = app.client().await;
            client.send_head("PATCH", &path, &chunked).await;
            client.send_chunk(&source[..50_000]).await;
            client.send(rest.as_bytes()).await;
            client.send(&source[50_000..50_000 + more]).await;
            wait_until_taken(app.address(), &path, (50_000 + more) as u64).await;
            cut.end(client).await;
            wait_until_committed(app.address(), &path, (50_000 + more) as u64).await;
            assert_eq!(resume(app.address(), &path, &source).await, (50_000 + more) as u64);
            is_whole(app.address(), &path, &source).await;
        }
        // All bytes, but without the final chunk.
        let path = app.client().await.create(SIZE as u64).await;
        let mut client = app.client().await;
        client.send_head("PATCH", &path, &chunked).await;
        client.send_chunk(&source).await;
        wait_until_taken(app.address(), &path, SIZE as u64).await;
        cut.end(client).await;
        wait_for_stage(app.address(), &path, "completed").await;
        is_whole(app.address(), &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_its_end_is_no_whole_body() {
    // With a deferred length only the end of the body could show that it is complete.
    let app = TestApp::start().await;
    let source = source();
    for cut in Cut::BOTH {
        let mut client = app.client().await;
        let created = client.tus("POST", "/files", &[("Upload-Defer-Length", "1")], b"").await;
        let path = created.header("location").unwrap().to_owned();
        client
            .send_head("PATCH", &path, &[TUS, OCTETS, ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked")])
            .await;
        client.send_chunk(&source[..1_000]).await;
        wait_until_taken(app.address(), &path, 1_000).await;
        cut.end(client).await;
        wait_until_committed(app.address(), &path, 1_000).await;
        let mut client = app.client().await;
        assert_eq!(client.status(&path).await["stage"], "receiving");
        let headers = [OCTETS, ("Upload-Offset", "1000"), ("Upload-Length", &SIZE.to_string())];
        assert_eq!(client.tus("PATCH", &path, &headers, &source[1_000..]).await.status, 204);
        is_whole(app.address(), &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_exactly_at_a_checkpoint_loses_and_doubles_nothing() {
    let app = TestApp::with(|config| {
        config.engine.writer.checkpoint_bytes = 65_536;
        config.engine.writer.checkpoint_every = Duration::from_secs(60);
    })
    .await;
    let source = source();
    for cut in Cut::BOTH {
        for beyond in [0, 1] {
            let path = app.client().await.create(SIZE as u64).await;
            let mut client = app.client().await;
            client.begin_patch(&path, 0, SIZE as u64).await;
            client.send(&source[..65_536]).await;
            wait_until_committed(app.address(), &path, 65_536).await;
            client.send(&source[65_536..65_536 + beyond]).await;
            wait_until_taken(app.address(), &path, (65_536 + beyond) as u64).await;
            cut.end(client).await;
            wait_until_committed(app.address(), &path, (65_536 + beyond) as u64).await;
            assert_eq!(resume(app.address(), &path, &source).await, (65_536 + beyond) as u64);
            is_whole(app.address(), &path, &source).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_is_cut_in_its_body_keeps_what_arrived() {
    // tus 39: the bytes that arrived are stored; here the list gives the path.
    let app = TestApp::start().await;
    let source = source();
    for cut in Cut::BOTH {
        let mut client = app.client().await;
        let length = SIZE.to_string();
        let headers = [TUS, OCTETS, ("Upload-Length", &length), ("Content-Length", &length)];
        client.send_head("POST", "/files", &headers).await;
        client.send(&source[..30_000]).await;
        let mut asking = app.client().await;
        let path = until("the creation is in the list", async || {
            let list = asking.get("/api/v1/uploads?stage=receiving").await.json();
            list["uploads"].as_array().unwrap().iter().find_map(|upload| {
                (upload["received"] == 30_000).then(|| upload["links"]["upload"].as_str().unwrap().to_owned())
            })
        })
        .await;
        cut.end(client).await;
        wait_until_committed(app.address(), &path, 30_000).await;
        assert_eq!(resume(app.address(), &path, &source).await, 30_000);
        is_whole(app.address(), &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksummed_request_that_is_cut_leaves_no_trace() {
    // tus 75: the checksum covers the whole request, so of an incomplete one nothing is kept.
    let app = TestApp::with(|config| config.engine.writer.checkpoint_bytes = 65_536).await;
    let source = source();
    let checksum = format!("sha1 {}", base64(&sha1::Sha1::digest(&source)));
    for cut in Cut::BOTH {
        for sent in [1, 100_000, SIZE - 1] {
            let path = app.client().await.create(SIZE as u64).await;
            let mut client = app.client().await;
            let length = SIZE.to_string();
            let headers = [OCTETS, ("Upload-Offset", "0"), ("Upload-Checksum", &checksum)];
            let cut_headers = [&[TUS, ("Content-Length", &length)], &headers[..]].concat();
            client.send_head("PATCH", &path, &cut_headers).await;
            client.send(&source[..sent]).await;
            wait_until_taken(app.address(), &path, sent as u64).await;
            cut.end(client).await;
            wait_until_at_rest(app.address(), &path).await;
            let mut client = app.client().await;
            assert_eq!(client.offset(&path).await, 0, "{cut:?} after {sent}");
            let status = client.status(&path).await;
            assert_eq!((&status["stage"], &status["received"]), (&"created".into(), &0.into()), "{status}");
            let stored: u64 = app.stored_files().iter().map(|file| file.metadata().unwrap().len()).sum();
            assert_eq!(stored % SIZE as u64, 0, "uncounted bytes take no disk space");
            assert_eq!(client.tus("PATCH", &path, &headers, &source).await.status, 204);
            is_whole(app.address(), &path, &source).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_splits_and_cuts_end_in_the_same_upload() {
    let app = TestApp::with(|config| {
        config.engine.writer.checkpoint_bytes = 65_536;
        config.engine.writer.checkpoint_every = Duration::from_millis(50);
        config.engine.writer.digests = vec![Algorithm::Sha256];
    })
    .await;
    for seed in 0..16 {
        eprintln!("seed {seed}");
        let mut random = Seeded::new(seed);
        let size = 1 + random.below(400_000);
        let source = random.bytes(size);
        let path = app.client().await.create(size as u64).await;
        let watcher = Watcher::start(app.address(), &path);
        let mut client = Clumsy { app: &app, path: &path, source: &source, at: 0, reached: 0, random };
        while client.at < size {
            client.send_some().await;
        }
        watcher.stop().await;
        wait_for_stage(app.address(), &path, "completed").await;
        is_whole(app.address(), &path, &source).await;
        let status = app.client().await.status(&path).await;
        assert_eq!(status["digests"]["sha256"], hex(&sha2::Sha256::digest(&source)), "seed {seed}");
    }
}

/// A client that sends a file in small pieces, over connections that break repeatedly.
struct Clumsy<'a> {
    app: &'a TestApp,
    path: &'a str,
    source: &'a [u8],
    /// The offset that the server reported last.
    at: usize,
    /// The highest offset up to which it has ever sent.
    reached: usize,
    random: Seeded,
}

impl Clumsy<'_> {
    /// Sends some of the missing bytes, in a random way, and then requests the offset.
    ///
    /// When it cuts a connection at once, the server may see that request only after later ones, and keep its
    /// bytes too. A later request is then superseded, or has a wrong offset; the response says so, and
    /// nothing worse happens.
    async fn send_some(&mut self) {
        let (at, offset) = (self.at, self.at.to_string());
        let end = at + 1 + self.random.below(self.source.len() - at);
        let sent = at + self.random.below(end - at);
        self.reached = self.reached.max(end);
        let mut client = self.app.client().await;
        let whole = &self.source[at..end];
        match self.random.below(6) {
            0 => {
                let answer = client.patch(self.path, at as u64, whole).await;
                assert!(matches!(answer.status, 204 | 409 | 413 | 503), "{answer:?}");
            }
            right @ (1 | 2) => {
                let crc = crc32c::crc32c(whole) ^ u32::from(right == 2);
                let checksum = format!("crc32c {}", base64(&crc.to_be_bytes()));
                let headers = [OCTETS, ("Upload-Offset", &offset), ("Upload-Checksum", &checksum)];
                let answer = client.tus("PATCH", self.path, &headers, whole).await;
                let wanted = if right == 1 { 204 } else { 460 };
                assert!([wanted, 409, 413, 503].contains(&answer.status), "{answer:?}");
            }
            3 => {
                let headers = [TUS, OCTETS, ("Upload-Offset", &offset), ("Transfer-Encoding", "chunked")];
                client.send_head("PATCH", self.path, &headers).await;
                for chunk in self.source[at..sent].chunks(1 + self.random.below(50_000)) {
                    client.send_chunk(chunk).await;
                }
                client.fin().await;
            }
            cut => {
                client.begin_patch(self.path, at as u64, (end - at) as u64).await;
                client.send(&self.source[at..sent]).await;
                Cut::BOTH[cut - 4].end(client).await;
            }
        }
        let told = usize::try_from(self.app.client().await.offset(self.path).await).unwrap();
        assert!((at..=self.reached).contains(&told), "{told} is not between {at} and {}", self.reached);
        self.at = told;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_digests_survive_cuts_and_restarts() {
    let mut app = TestApp::with(|config| {
        config.engine.writer.checkpoint_bytes = 65_536;
        config.limits.bodies.drain_timeout = Duration::from_millis(100);
        config.engine.writer.digests =
            Algorithm::ALL.into_iter().filter(|digest| *digest != Algorithm::Crc32c).collect();
    })
    .await;
    let source = source();
    let path = app.client().await.create(SIZE as u64).await;
    // Pieces that end within, at and after blocks of the digests.
    for (round, end) in [1, 64, 65, 127, 65_536, 65_537, 131_071, 199_999].into_iter().enumerate() {
        let mut client = app.client().await;
        let at = usize::try_from(client.offset(&path).await).unwrap();
        client.begin_patch(&path, at as u64, (SIZE - at) as u64).await;
        client.send(&source[at..end]).await;
        wait_until_taken(app.address(), &path, end as u64).await;
        // In every second round the server stops while a client is still connected.
        if round % 2 == 0 {
            Cut::BOTH[round / 2 % 2].end(client).await;
            wait_until_committed(app.address(), &path, end as u64).await;
            app.restart().await;
        } else {
            app.restart().await;
            drop(client);
        }
        assert_eq!(app.client().await.offset(&path).await, end as u64);
    }
    resume(app.address(), &path, &source).await;
    is_whole(app.address(), &path, &source).await;
    let status = app.client().await.status(&path).await;
    let expected = [
        ("crc32", format!("{:08x}", crc32fast::hash(&source))),
        ("md5", hex(&md5::Md5::digest(&source))),
        ("sha1", hex(&sha1::Sha1::digest(&source))),
        ("sha256", hex(&sha2::Sha256::digest(&source))),
        ("sha512", hex(&sha2::Sha512::digest(&source))),
    ];
    for (name, digest) in expected {
        assert_eq!(status["digests"][name], digest, "{name}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
