//! Memory: bounded, shared fairly, and returned by clients that stop sending.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use state::Durability;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::app::TestApp;
use crate::support::client::{Client, OCTETS, TUS};
use crate::support::group::Group;
use crate::support::http2;
use crate::support::moving::{is_whole, resume};
use crate::support::patience::until;
use crate::support::program::Program;
use crate::support::seeded::Seeded;
use crate::support::tls::Certificate;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Starts a server with the smallest amount of memory for bytes, 4 MiB: the smallest buffers of a thousand
/// uploads.
async fn a_small_server() -> TestApp {
    TestApp::with(|config| {
        config.engine.writer.buffer_bytes = 0;
        config.storage.local.durability = storage::local::BlobDurability::Relaxed;
        config.database.durability = Durability::Relaxed;
    })
    .await
}

/// Opens a connection on which an upload of `length` bytes has begun without any byte.
async fn silent_client(address: SocketAddr, length: usize) -> Client {
    let path = Client::connect(address).await.create(length as u64).await;
    let mut client = Client::connect(address).await;
    client.begin_patch(&path, 0, length as u64).await;
    client
}

/// Waits until `count` uploads have received this many bytes each.
async fn wait_until_each_has(address: SocketAddr, received: usize, count: usize) {
    let mut client = Client::connect(address).await;
    until(&format!("{count} uploads have {received} bytes"), async || {
        let list = client.get("/api/v1/uploads?limit=1000").await.json();
        let so_far = list["uploads"].as_array().unwrap().iter().filter(|upload| upload["received"] == received);
        (so_far.count() == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_send_a_little_and_stop_give_their_memory_back() {
    let app = a_small_server().await;
    let count = 600;
    let mut silent = join_all((0..count).map(|_| silent_client(app.address(), 100 * KIB))).await;
    let source = Seeded::new(1).bytes(2 * MIB);
    for round in 1..=2 {
        // Together they need more than there is: a first buffer has 64 KiB, or whatever is left.
        join_all(silent.iter_mut().map(|client| client.send(b"x"))).await;
        wait_until_each_has(app.address(), round, count).await;
        // All of them keep their connections, and none of them keeps memory.
        let path = app.client().await.create(source.len() as u64).await;
        resume(app.address(), &path, &source).await;
        is_whole(app.address(), &path, &source).await;
    }
    join_all(silent.iter_mut().map(async |client| {
        client.send(&vec![b'x'; 100 * KIB - 2]).await;
        assert_eq!(client.answer("PATCH").await.status, 204);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_uploads_and_many_slow_ones_share_what_there_is() {
    let app = a_small_server().await;
    let address = app.address();
    let over = Arc::new(AtomicBool::new(false));
    let source = Arc::new(Seeded::new(2).bytes(8 * MIB));
    let fast: Vec<_> = (0..4)
        .map(|_| {
            let (over, source, rounds) = (Arc::clone(&over), Arc::clone(&source), AtomicUsize::new(0));
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let path = Client::connect(address).await.create(source.len() as u64).await;
                    resume(address, &path, &source).await;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                rounds.into_inner()
            })
        })
        .collect();
    // Each continues only when its bytes were received, a few hundred times, while the fast ones use all the
    // capacity they can get.
    let steps = 10;
    let slow = join_all((0..50).map(async |_| {
        let path = Client::connect(address).await.create((steps * KIB) as u64).await;
        let (mut client, mut asking) = (Client::connect(address).await, Client::connect(address).await);
        client.begin_patch(&path, 0, (steps * KIB) as u64).await;
        for step in 1..=steps {
            client.send(&[b'x'; KIB]).await;
            if step < steps {
                until("the slow one's bytes are taken", async || {
                    (asking.status(&path).await["received"] == step * KIB).then_some(())
                })
                .await;
            }
        }
        client.answer("PATCH").await.status
    }));
    assert!(slow.await.iter().all(|status| *status == 204));
    over.store(true, Ordering::Relaxed);
    let rounds: Vec<_> = join_all(fast).await.into_iter().map(|rounds| rounds.unwrap()).collect();
    eprintln!("the fast ones have sent {rounds:?} uploads meanwhile");
    assert!(rounds.iter().all(|rounds| *rounds > 0));
}

/// Returns the number of files that a process may have open.
fn files_allowed() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_trickling_clients_need_little() {
    let count = 1000;
    if files_allowed() < 5 * count {
        eprintln!("skipped: {} open files are too few for {count} uploads", files_allowed());
        return;
    }
    let folder = TempDir::new().unwrap();
    let mut program = Program::serve(folder.path(), &["--log-level", "warn", "--storage-durability", "relaxed"]);
    let address = program.address();
    // Memory that is needed only once is allocated before the measurement.
    let path = Client::connect(address).await.create(MIB as u64).await;
    resume(address, &path, &vec![1; MIB]).await;
    let before = program.memory_bytes("VmRSS");
    let (mut creating, mut clients) = (Client::connect(address).await, Vec::new());
    for _ in 0..count {
        let path = creating.create(MIB as u64).await;
        let mut client = Client::connect(address).await;
        client.begin_patch(&path, 0, MIB as u64).await;
        clients.push(client);
    }
    for round in 1..=5 {
        join_all(clients.iter_mut().map(|client| client.send(&[b'x'; KIB]))).await;
        wait_until_so_much_has_come(address, MIB + count * round * KIB).await;
    }
    let each = program.memory_bytes("VmRSS").saturating_sub(before) / count as u64;
    eprintln!("{each} bytes of memory for each of {count} clients");
    assert!(each < 64 * KIB as u64, "{each} bytes for each client");
    assert!(each > KIB as u64, "{each} bytes for each client are too few to be true");
}

/// Waits until the server has received this many bytes, of all uploads in total.
async fn wait_until_so_much_has_come(address: SocketAddr, bytes: usize) {
    let mut client = Client::connect(address).await;
    let name = "longshore_upload_bytes_received_total ";
    until(&format!("{bytes} bytes have come"), async || {
        let metrics = String::from_utf8(client.get("/metrics").await.body).unwrap();
        let total = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        (total.parse() == Ok(bytes)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fast_uploads_stay_below_the_ceiling() {
    let folder = TempDir::new().unwrap();
    let flags = ["--log-level", "warn", "--storage-buffer-memory", "16MiB", "--limits-max-active-uploads", "100"];
    let mut program = Program::serve(folder.path(), &flags);
    let address = program.address();
    let source = Arc::new(Seeded::new(3).bytes(24 * MIB));
    let before = program.memory_bytes("VmRSS");
    let uploads = (0..8).map(|_| {
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            let path = Client::connect(address).await.create(source.len() as u64).await;
            resume(address, &path, &source).await;
            path
        })
    });
    for uploaded in join_all(uploads.collect::<Vec<_>>()).await {
        let status = Client::connect(address).await.status(&uploaded.unwrap()).await;
        assert_eq!(status["digests"]["crc32c"], format!("{:08x}", crc32c::crc32c(&source)));
    }
    let peak = program.memory_bytes("VmHWM").saturating_sub(before);
    eprintln!("{} KiB at the most, {} bytes sent", peak / 1024, 8 * source.len());
    // The ceiling, the same amount for freed memory that the allocator keeps, and the memory that connections
    // need besides.
    assert!(peak < (16 + 16 + 16) * MIB as u64, "{peak} bytes");
}

/// Makes a page of the list large: three hundred uploads, each with 3 KiB of metadata.
async fn make_a_long_list(address: SocketAddr) {
    let mut client = Client::connect(address).await;
    let metadata = format!("k {}", "bW1t".repeat(1_000));
    for _ in 0..300 {
        let headers = [("Upload-Length", "1"), ("Upload-Metadata", &metadata), ("Content-Type", OCTETS.1)];
        assert_eq!(client.tus("POST", "/files", &headers, b"x").await.status, 201);
    }
}

const A_LONG_LIST: &str = "/api/v1/uploads?limit=1000";

/// Opens a connection that sends this many requests at once, and reads nothing.
async fn ask_and_read_nothing(address: SocketAddr, path: &str, times: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").repeat(times);
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_nobody_reads_give_their_memory_back_to_those_who_wait() {
    // Enough for one page that is being built.
    let app = TestApp::with(|config| {
        config.limits.answer_memory_bytes = 4 << 20;
        config.limits.timeouts.answer = Duration::from_secs(3);
    })
    .await;
    make_a_long_list(app.address()).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(ask_and_read_nothing(app.address(), A_LONG_LIST, 16).await);
    }
    let mut client = app.client().await;
    until("a client that reads gets the list", async || {
        let answer = client.get(A_LONG_LIST).await;
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        if answer.status == 503 {
            assert!(answer.header("retry-after").is_some() && answer.problem() == "too-many-answers", "{answer:?}");
        }
        (answer.status == 200).then_some(())
    })
    .await;
    // Uploads and small responses never wait for clients that read nothing.
    let path = app.client().await.create(5).await;
    assert_eq!(app.client().await.patch(&path, 0, b"hello").await.status, 204);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_of_http_2_does_not_take_the_memory_of_all_others() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| {
        certificate.configure(config);
        config.limits.answer_memory_bytes = 32 << 20;
        config.limits.timeouts.answer = Duration::from_secs(20);
    })
    .await;
    let mut reader = http2::Client::connect(app.address(), &certificate).await;
    let metadata = format!("k {}", "bW1t".repeat(1_000));
    for _ in 0..300 {
        let headers = [("Upload-Length", "0"), ("Upload-Metadata", &metadata[..])];
        assert_eq!(reader.tus("POST", "/files", &headers).await.status, 201);
    }
    let mut silent = http2::Client::without_window(app.address(), &certificate).await;
    let mut begun = Vec::new();
    for _ in 0..90 {
        begun.push(silent.begin("GET", A_LONG_LIST, &[], true).await);
    }
    // Each of these would wait until the silent client times out, if that client held all of the memory.
    for _ in 0..3 {
        let answer = tokio::time::timeout(Duration::from_secs(10), reader.tus("GET", A_LONG_LIST, &[])).await;
        let answer = answer.expect("it is answered while the other waits");
        assert!(answer.status == 200 && answer.body.len() > MIB / 2, "{}", answer.status);
    }
    drop(begun);
}

/// The memory of a small container.
const GROUP_BYTES: u64 = 256 * MIB as u64;

/// The real program in a control group of [`GROUP_BYTES`].
struct Container {
    program: Program,
    _group: Group,
    _folder: TempDir,
}

impl Container {
    /// Returns `None`, with the reason printed, if no such group can be created or this process cannot open
    /// that many connections.
    fn small(clients: usize) -> Option<Self> {
        if files_allowed() < 3 * clients {
            eprintln!("skipped: {} open files are too few for {clients} clients", files_allowed());
            return None;
        }
        let made = Group::of(GROUP_BYTES);
        let refused = |why| eprintln!("skipped: no control group with a limit of memory can be made here: {why}");
        let group = made.map_err(refused).ok()?;
        let folder = TempDir::new().unwrap();
        let wrapper = group.enter();
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let program = Program::serve_under(&wrapper, folder.path(), &["--storage-durability", "relaxed"]);
        Some(Self { program, _group: group, _folder: folder })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_container_survives_two_thousand_readers_that_read_nothing() {
    const READERS: usize = 2_000;
    let Some(mut small) = Container::small(READERS) else { return };
    let program = &mut small.program;
    let address = program.address();
    assert!(program.stderr().contains("MiB of the 256MiB that the control group allows: "), "{}", program.stderr());
    make_a_long_list(address).await;
    let large = Seeded::new(4).bytes(32 * MIB);
    let download = Client::connect(address).await.create(large.len() as u64).await;
    resume(address, &download, &large).await;
    is_whole(address, &download, &large).await;

    let mut silent = Vec::with_capacity(READERS);
    for _ in 0..READERS / 4 {
        silent.push(ask_and_read_nothing(address, A_LONG_LIST, 16).await);
        silent.push(ask_and_read_nothing(address, "/api/v1/events", 1).await);
        silent.push(ask_and_read_nothing(address, &download, 1).await);
        silent.push(ask_and_read_nothing(address, &download, 1).await);
    }
    let uploads = (0..4).map(async |_| {
        let path = Client::connect(address).await.create(large.len() as u64).await;
        resume(address, &path, &large).await;
        is_whole(address, &path, &large).await;
    });
    join_all(uploads).await;
    assert_eq!(Client::connect(address).await.get("/readyz").await.status, 200);
    let (resident, peak) = (program.memory_bytes("VmRSS") / MIB as u64, program.memory_bytes("VmHWM") / MIB as u64);
    eprintln!("{resident} MiB are resident with {READERS} silent readers, {peak} MiB at the most");
    assert!(peak < 240, "{peak} MiB");
    drop(silent);
}

/// Every connection is read slowly; nothing else differs.
#[tokio::test(flavor = "multi_thread")]
async fn without_memory_for_reading_ahead_bodies_come_as_they_are_asked_for() {
    let app = TestApp::with(|config| config.limits.read_ahead_memory_bytes = 0).await;
    let body = Seeded::new(5).bytes(2 * MIB);
    let clients = (0..8).map(async |_| {
        let mut client = app.client().await;
        for _ in 0..2 {
            let path = client.create(body.len() as u64).await;
            let early = client.patch(&path, 7, &body).await;
            assert_eq!(early.status, 409, "refused before its body was read");
            client = app.client().await;
            assert_eq!(client.patch(&path, 0, &body).await.status, 204);
            is_whole(app.address(), &path, &body).await;

            let path = client.create(body.len() as u64).await;
            let chunked = [TUS, OCTETS, ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked")];
            client.send_head("PATCH", &path, &chunked).await;
            for chunk in body.chunks(100_000).chain([&[][..]]) {
                client.send_chunk(chunk).await;
            }
            assert_eq!(client.answer("PATCH").await.status, 204);
            is_whole(app.address(), &path, &body).await;
        }
    });
    join_all(clients).await;
}

/// Uploads as fast as they can be sent, each on a connection that stays open: together they share the memory
/// for reading ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_container_survives_many_fast_uploads() {
    const UPLOADS: usize = 1_000;
    let Some(mut small) = Container::small(UPLOADS) else { return };
    let program = &mut small.program;
    let address = program.address();
    let body = Seeded::new(6).bytes(MIB);
    let uploads = (0..UPLOADS).map(async |_| {
        let mut client = Client::connect(address).await;
        let path = client.create(body.len() as u64).await;
        assert_eq!(client.patch(&path, 0, &body).await.status, 204);
        client
    });
    let connections = join_all(uploads).await;
    assert_eq!(Client::connect(address).await.get("/readyz").await.status, 200);
    let peak = program.memory_bytes("VmHWM") / MIB as u64;
    eprintln!("{peak} MiB were resident at the most with {UPLOADS} fast uploads");
    assert!(peak < 240, "{peak} MiB");
    drop(connections);
}
