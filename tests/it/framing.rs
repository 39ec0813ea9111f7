//! HTTP/1.1 and HTTP/2 as bytes on the wire: ambiguous requests, bodies that break off inside their framing,
//! requests to upgrade to other protocols, and endless heads.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::app::TestApp;
use crate::support::client::{Client, OCTETS, TUS};
use crate::support::patience::until;
use crate::support::tls::{Certificate, connect};

const SECOND: &str = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// Sends bytes unchanged, and reads the only response and the end of the connection after it.
async fn ends_with(app: &TestApp, said: &str, method: &str) -> (u16, String) {
    let mut client = app.client().await;
    client.send(said.as_bytes()).await;
    let answer = client.answer(method).await;
    assert_eq!(answer.header("connection"), Some("close"), "{said:?}: {answer:?}");
    assert!(client.read_until(b"HTTP").await.is_none(), "{said:?}: nothing comes behind it");
    (answer.status, if method == "HEAD" { String::new() } else { answer.problem() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_be_understood_in_two_ways_is_refused_and_changes_nothing() {
    let app = TestApp::start().await;
    let creation = "POST /files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n";
    for (fields, body) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ("Content-Length: 0\r\nContent-Length: 5\r\n", "hello"),
        ("Content-Length: +5\r\n", "hello"),
        ("Content-Length: 5, 5\r\n", "hello"),
        ("Content-Length: 0x5\r\n", "hello"),
        ("Content-Length: 5 5\r\n", "hello"),
        ("Transfer-Encoding: xchunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked, identity\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: identity\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("Content-Length: 5\r\nX-Folded: a\r\n b\r\n", "hello"),
        ("Content-Length: 5\nX-Bare: a\r\n", "hello"),
        ("Content-Length : 5\r\n", "hello"),
        ("Content-Length: 5\r\n: empty\r\n", "hello"),
        ("Content-Length: 5\r\nHost: other\r\n", "hello"),
        ("Content-Length: 5\r\nX-Nul: \0\r\n", "hello"),
    ] {
        let refused = ends_with(&app, &format!("{creation}{fields}\r\n{body}{SECOND}"), "POST").await;
        assert_eq!(refused, (400, "unreadable-request".to_owned()), "{fields:?}");
    }
    for said in [
        "POST /files HTTP/1.0\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST /files HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        "PROXY TCP4 192.0.2.1 192.0.2.2 50000 80\r\nGET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}",
        "GET /healthz\r\n\r\n",
        "GET http://[/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ] {
        assert_eq!(ends_with(&app, said, "GET").await, (400, "unreadable-request".to_owned()), "{said:?}");
    }
    let head = format!("HEAD /files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: +5\r\n\r\n{SECOND}");
    assert_eq!(ends_with(&app, &head, "HEAD").await.0, 400);
    let many = (0..97).map(|at| format!("X-{at}: y\r\n")).collect::<String>();
    let long = format!("X: {}\r\n", "y".repeat(150 * 1024));
    for fields in [many, long] {
        let said = format!("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n");
        assert_eq!(ends_with(&app, &said, "GET").await, (431, "header-too-large".to_owned()));
    }
    let uploads = app.client().await.get("/api/v1/uploads").await.json();
    assert_eq!(uploads["uploads"].as_array().unwrap().len(), 0, "{uploads}");
    let metrics = String::from_utf8(app.client().await.get("/metrics").await.body).unwrap();
    let counted = "longshore_refusals_total{reason=\"unreadable-head\"} 28\n";
    assert!(metrics.contains(counted), "every one was counted: {metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_with_broken_framing_is_told_and_what_came_before_is_kept() {
    let app = TestApp::start().await;
    let path = app.client().await.create(100).await;
    for (chunks, offset) in
        [("5\r\nhelloXX0\r\n\r\n", 5), ("5\r\nhello\r\nx\r\n", 10), ("-5\r\nhello\r\n0\r\n\r\n", 10)]
    {
        let at = app.client().await.offset(&path).await.to_string();
        let mut client = app.client().await;
        let headers = [TUS, OCTETS, ("Upload-Offset", at.as_str()), ("Transfer-Encoding", "chunked")];
        client.send_head("PATCH", &path, &headers).await;
        client.send(format!("{chunks}{SECOND}").as_bytes()).await;
        let answer = client.answer("PATCH").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "broken-framing"), "{chunks:?}: {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.read_until(b"HTTP").await.is_none(), "nothing comes behind it");
        assert_eq!(app.client().await.offset(&path).await, offset, "{chunks:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_refused_and_nothing_behind_it_is_answered() {
    let app = TestApp::start().await;
    for fields in ["", "Content-Length: 3\r\n"] {
        let said = format!("CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\nabc{SECOND}");
        assert_eq!(ends_with(&app, &said, "CONNECT").await, (501, "not-a-proxy".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_another_protocol_changes_nothing() {
    let app = TestApp::start().await;
    let connection = |options| ("Connection", options);
    for (protocol, wish) in [
        ("websocket", vec![connection("keep-alive, Upgrade"), ("Upgrade", "websocket")]),
        ("two at once", vec![connection("Upgrade"), ("Upgrade", "WebSocket, h2c")]),
        // The next request is that of Java's client, and the one after it that of nginx with the
        // configuration that is commonly published for tus.
        ("h2c", vec![connection("Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")]),
        ("none", vec![connection("upgrade")]),
        ("an empty one", vec![connection("upgrade"), ("Upgrade", "")]),
    ] {
        let mut client = app.client().await;
        let path = client.create(20).await;
        for at in ["0", "10"] {
            let headers = [&[OCTETS, ("Upload-Offset", at)][..], &wish].concat();
            let answer = client.tus("PATCH", &path, &headers, b"0123456789").await;
            assert_eq!(answer.status, 204, "{protocol}: {answer:?}");
            assert_eq!((answer.header("connection"), answer.header("upgrade")), (None, None), "{protocol}");
        }
        assert_eq!(client.request("GET", &path, &wish, b"").await.body, b"01234567890123456789");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_answer_that_ends_the_connection_nothing_is_answered() {
    let app = TestApp::start().await;
    let path = app.client().await.create(100).await;
    let last = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".to_owned();
    let early = format!(
        "PATCH {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 7\r\nContent-Type: {}\r\n\
         Content-Length: 1000\r\n\r\nnot all of it",
        OCTETS.1
    );
    for (said, status) in [(last, 200), (early, 409)] {
        let mut client = app.client().await;
        client.send(format!("{said}{SECOND}{SECOND}").as_bytes()).await;
        let answer = client.answer("GET").await;
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
        assert!(client.read_until(b"HTTP").await.is_none());
    }
}

/// Sends the beginning of a head, and more of it from time to time.
async fn dribbles(mut client: Client) {
    client.send(b"GET /healthz HTTP/1.1\r\nX: ").await;
    let (mut reading, mut writing) = client.stream.split();
    let sending = async {
        while writing.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let mut rest = Vec::new();
    let ended = async { tokio::time::timeout(Duration::from_secs(20), reading.read_to_end(&mut rest)).await };
    tokio::select! {
        () = sending => {}
        ended = ended => {
            // The client's last bytes may arrive after the server has closed.
            let _ = ended.expect("the server ends it");
        }
    }
    assert!(rest.is_empty(), "tus clients would abandon the upload at a 408: {}", String::from_utf8_lossy(&rest));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_head_of_a_connection_has_its_time_too() {
    let app = TestApp::with(|config| {
        config.limits.timeouts.header = Duration::from_secs(1);
        config.limits.max_connections = 20;
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = app.client().await;
        assert_eq!(client.get("/healthz").await.status, 200);
        clients.push(client);
    }
    let crowd = futures::future::join_all(clients.into_iter().map(dribbles));
    let honest = until("connections are free for others", async || {
        let mut client = app.client().await;
        client.send_head("GET", "/healthz", &[]).await;
        client.raw_answer("GET").await.filter(|answer| answer.status == 200)
    });
    let (_, honest) = tokio::join!(crowd, honest);
    assert_eq!(honest.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_over_http2_that_never_ends_ends_its_connection() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| {
        certificate.configure(config);
        config.limits.timeouts.header = Duration::from_secs(1);
        config.limits.timeouts.keep_alive = Duration::from_secs(600);
    })
    .await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // HEADERS and CONTINUATION without END_HEADERS, and a HEADERS frame that is announced but not sent.
    let (begins, goes_on) = ([0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82], [0, 0, 1, 9, 0, 0, 0, 0, 1, 0x84]);
    let announced = [0, 0x20, 0, 1, 5, 0, 0, 0, 1];
    for (first, more) in [(&begins[..], &goes_on[..]), (&announced, &[0x82])] {
        let mut stream = connect(&certificate.connector(&["h2"]), app.address()).await.unwrap();
        stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], first].concat()).await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(stream);
        let sending = async {
            while writing.write_all(more).await.is_ok() {
                let _ = writing.flush().await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let mut heard = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), reading.read_to_end(&mut heard));
        tokio::select! {
            () = sending => {}
            ended = ended => drop(ended.expect("the server ends it")),
        }
    }
}
