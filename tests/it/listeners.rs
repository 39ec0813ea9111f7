//! Reads apart from uploads: a separate address and separate threads.

use std::fs;

use longshore::app::StopOutcome;
use tempfile::TempDir;

use crate::support::app::TestApp;
use crate::support::client::{Client, OCTETS};
use crate::support::moving::is_whole;
use crate::support::patience::until;
use crate::support::program::Program;
use crate::support::tls::{Certificate, unwrapped};

async fn apart() -> TestApp {
    TestApp::with(|config| config.server.read_listen = Some(([127, 0, 0, 1], 0).into())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_at_one_address_is_read_at_the_other() {
    let mut app = apart().await;
    assert_ne!(app.address(), app.read_address());
    let mut uploader = app.client().await;
    let path = uploader.create(11).await;
    let mut reader = Client::connect(app.read_address()).await;
    assert_eq!(reader.offset(&path).await, 0);
    assert_eq!(reader.get(&path).await.status, 409, "there is nothing to download yet");
    assert_eq!(uploader.patch(&path, 0, b"hello world").await.status, 204);
    is_whole(app.read_address(), &path, b"hello world").await;
    for read in ["/api/v1/uploads", "/api/v1/webhooks/deliveries", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(reader.get(read).await.status, 200, "{read}");
    }
    let mut stream = Client::connect(app.read_address()).await;
    stream.send_head("GET", "/api/v1/events", &[]).await;
    assert!(stream.read_until(b"event: snapshot").await.is_some());
    // Uploads can still be read at the main address.
    is_whole(app.address(), &path, b"hello world").await;
    let both = [app.address(), app.read_address()];
    assert_eq!(app.stop().await, StopOutcome::Clean);
    for address in both {
        assert!(Client::try_connect(address).await.is_none(), "both are gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_where_only_reading_is_served() {
    let app = apart().await;
    let path = app.client().await.create(11).await;
    let length = ("Upload-Length", "11");
    let hidden = ("X-HTTP-Method-Override", "DELETE");
    for (method, at, headers, allow) in [
        ("POST", "/files", &[length][..], "OPTIONS"),
        ("POST", "/files/", &[length], "OPTIONS"),
        ("GET", "/files", &[], "OPTIONS"),
        ("PATCH", &path, &[OCTETS, ("Upload-Offset", "0")], "GET, HEAD, OPTIONS"),
        ("DELETE", &path, &[], "GET, HEAD, OPTIONS"),
        ("POST", &path, &[hidden], "GET, HEAD, OPTIONS"),
        ("PUT", "/nothing/here", &[], "GET, HEAD, OPTIONS"),
    ] {
        let mut reader = Client::connect(app.read_address()).await;
        let answer = reader.tus(method, at, headers, b"").await;
        assert_eq!((answer.status, answer.problem().as_str()), (405, "read-only"), "{method} {at}: {answer:?}");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {at}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("send uploads and changes to the main listener"));
    }
    let mut reader = Client::connect(app.read_address()).await;
    assert_eq!(reader.request("GET", &path, &[hidden], b"").await.status, 409, "only POST can be overridden");
    assert_eq!(reader.tus("OPTIONS", "/files", &[], b"").await.status, 204);
    assert_eq!(app.client().await.offset(&path).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_nothing_there_is_nothing_to_read_either() {
    let app = apart().await;
    let mut reader = Client::connect(app.read_address()).await;
    for at in ["/nothing/here", "/files/a/b", "/api/v1/webhooks", "/api/v1/webhooks/nothing"] {
        assert_eq!(reader.get(at).await.status, 404, "{at}");
        let answer = reader.request("PUT", at, &[], b"").await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD, OPTIONS")), "{at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_has_places_of_its_own_and_both_speak_tls() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| {
        certificate.configure(config);
        config.server.read_listen = Some(([127, 0, 0, 1], 0).into());
        config.limits.max_connections = 1;
        config.limits.max_read_connections = 1;
    })
    .await;
    let connector = certificate.connector(&[]);
    let uploads = unwrapped(connector.clone(), app.address()).await;
    let reads = unwrapped(connector.clone(), app.read_address()).await;
    let (mut uploader, mut reader) = (Client::connect(uploads).await, Client::connect(reads).await);
    let path = uploader.create(4).await;
    assert_eq!(reader.offset(&path).await, 0);
    for full in [app.address(), app.read_address()] {
        let refused = crate::support::tls::connect(&connector, full).await;
        assert!(refused.is_err(), "a handshake would cost more than it is worth: it is closed");
    }
    assert_eq!(uploader.patch(&path, 0, b"data").await.status, 204);
}

/// Returns the number of threads of a process with this niceness.
fn threads_of_niceness(process: u32, niceness: i32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of_thread = |task: std::io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        // proc(5): the 19th field; the name, the 2nd, ends with the last parenthesis.
        let (_, rest) = stat.rsplit_once(") ")?;
        rest.split(' ').nth(16)?.parse::<i32>().ok()
    };
    tasks.filter_map(of_thread).filter(|found| *found == niceness).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_that_take_uploads_give_way_to_those_that_are_read_from() {
    let folder = TempDir::new().unwrap();
    let workers = ["--workers", "3", "--read-workers", "2", "--upload-niceness", "7"];
    let apart = [&workers[..], &["--read-listen", "127.0.0.1:0"]].concat();
    // Each thread that serves connections has a companion that writes the received bytes.
    for (flags, lowered) in [(&apart[..], 6), (&workers, 0)] {
        let mut program = Program::serve(&folder.path().join("data"), flags);
        let address = program.address();
        until("the server is up", async || Client::try_connect(address).await).await;
        // A thread lowers its own priority, possibly only after the first connection.
        let count = || i32::try_from(threads_of_niceness(program.id(), 7)).unwrap();
        until("the threads have their niceness", async || (count() >= lowered).then_some(())).await;
        // Threads for blocking work are lowered too, and start on demand.
        assert!(lowered > 0 || count() == 0, "{flags:?}");
        assert!(threads_of_niceness(program.id(), 0) >= 3, "all others are as they were");
        let stdout = program.stdout();
        let lines: Vec<&str> = stdout.lines().collect();
        assert_eq!(lines[0], format!("listening on http://{address}"));
        match lines[1..] {
            [] => assert_eq!(lowered, 0),
            [second] => {
                let read = second.strip_prefix("reading on http://").expect("the other line").parse().unwrap();
                assert_eq!(Client::connect(read).await.get("/readyz").await.status, 200);
            }
            _ => panic!("{stdout}"),
        }
        program.signal("TERM");
        assert_eq!(program.ran().code, Some(0));
    }
}
