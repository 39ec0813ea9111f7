//! Connections that are not from a node of the cluster, and requests that are not calls.

use super::*;
use engine::peers::Peers;
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Returns the error of a call by a node with this identity.
async fn error_of(identity: &PeerIdentity) -> String {
    let cluster = Cluster::new();
    let holder = cluster.start(1).await;
    let id = holder.create("tus", 10).await;
    let stranger = PeerLink::new(&LinkSettings::default(), identity, cluster.living()).unwrap();
    let called = stranger.checkpoint(holder.engine.node(), id).await;
    called.unwrap_err().to_string()
}

#[tokio::test]
async fn another_key_or_another_cluster_is_named_as_the_reason() {
    for identity in [PeerIdentity::derive(&keys(2), "test"), PeerIdentity::derive(&keys(1), "other")] {
        let error = error_of(&identity.unwrap()).await;
        assert!(error.contains("another server key or cluster name"), "{error}");
    }
}

/// First the new key is added everywhere, and then it becomes the first one, node by node.
#[tokio::test]
async fn a_new_server_key_is_introduced_node_by_node() {
    let texts = [1, 2].map(|byte| keys(byte).to_text());
    let [old_first, new_first] = [[&texts[0], &texts[1]], [&texts[1], &texts[0]]].map(|[first, second]| {
        let both = ServerKeys::parse(&format!("{first}{second}")).unwrap();
        PeerIdentity::derive(&both, "test").unwrap()
    });
    for (accepting, calling) in
        [(identity(), &old_first), (old_first.clone(), &new_first), (new_first.clone(), &old_first)]
    {
        let cluster = Cluster::new();
        let holder = cluster.start_as(1, accepting, LinkSettings::default()).await;
        let id = holder.create("tus", 10).await;
        let caller = PeerLink::new(&LinkSettings::default(), calling, cluster.living()).unwrap();
        caller.checkpoint(holder.engine.node(), id).await.unwrap();
    }
}

/// Returns a client that the nodes accept, for requests that no node makes.
fn client_with(tls: rustls::ClientConfig) -> reqwest::Client {
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

#[tokio::test]
async fn a_request_that_is_not_a_call_is_declined() {
    let cluster = Cluster::new();
    let holder = cluster.start(1).await;
    let client = client_with(identity().calling);
    let to = holder.engine.node();
    let ids = |count: usize| vec![format!("\"{to}\""); count].join(",");
    for (path, body, expected) in [
        ("/peer/v1/checkpoint", format!(r#"{{"to":"{to}","upload":"{to}","unknown":1}}"#), StatusCode::OK),
        ("/peer/v0/checkpoint", format!(r#"{{"to":"{to}","upload":"{to}"}}"#), StatusCode::OK),
        ("/peer/v1/progress", format!(r#"{{"to":"{to}","uploads":[{}]}}"#, ids(1000)), StatusCode::OK),
        ("/peer/v0/progress", format!(r#"{{"to":"{to}","uploads":[]}}"#), StatusCode::NOT_FOUND),
        ("/peer/v2/checkpoint", format!(r#"{{"to":"{to}","upload":"{to}"}}"#), StatusCode::NOT_FOUND),
        ("/peer/v1/unknown", "{}".to_owned(), StatusCode::NOT_FOUND),
        ("/", "{}".to_owned(), StatusCode::NOT_FOUND),
        ("/peer/v1/checkpoint", format!(r#"{{"to":"{to}"}}"#), StatusCode::BAD_REQUEST),
        ("/peer/v1/checkpoint", format!(r#"{{"to":"{to}","upload":"no"}}"#), StatusCode::BAD_REQUEST),
        (
            "/peer/v1/yield",
            format!(r#"{{"to":"{to}","upload":"{to}","when":{{"at":{{"offset":{}}}}}}}"#, u64::MAX),
            StatusCode::BAD_REQUEST,
        ),
        ("/peer/v1/yield", format!(r#"{{"to":"{to}","upload":"{to}","when":"unknown"}}"#), StatusCode::BAD_REQUEST),
        ("/peer/v1/progress", format!(r#"{{"to":"{to}","uploads":[{}]}}"#, ids(1001)), StatusCode::PAYLOAD_TOO_LARGE),
        ("/peer/v1/checkpoint", " ".repeat(wire::MAX_REQUEST_BYTES + 1), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let url = format!("https://{}{path}", holder.address);
        let answer = client.post(url).body(body).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{path}");
    }
    let read = client.get(format!("https://{}/peer/v1/checkpoint", holder.address)).send().await.unwrap();
    assert_eq!(read.status(), StatusCode::METHOD_NOT_ALLOWED);
}

/// Reads until the other side closes the connection.
async fn rest_of(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed");
    rest
}

#[tokio::test]
async fn without_tls_there_is_no_answer() {
    let cluster = Cluster::new();
    let holder = cluster.start(1).await;
    let mut stream = TcpStream::connect(holder.address).await.unwrap();
    stream.write_all(b"POST /peer/v1/checkpoint HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let answer = rest_of(stream).await;
    assert!(!answer.windows(4).any(|text| text == b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_rejected() {
    let cluster = Cluster::new();
    let holder = cluster.start(1).await;
    let known = identity();
    let mut tls = known.calling.clone();
    tls.client_auth_cert_resolver = Arc::new(NoCertificate);
    let sent = client_with(tls).post(format!("https://{}/peer/v1/checkpoint", holder.address)).body("{}").send().await;
    assert!(sent.is_err(), "{sent:?}");
    let with = client_with(known.calling).post(format!("https://{}/", holder.address)).send().await.unwrap();
    assert_eq!(with.status(), StatusCode::NOT_FOUND, "the same client with a certificate has an answer");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn silent_connections_are_closed_and_keep_nobody_out_for_long() {
    let cluster = Cluster::new();
    let limits =
        LinkSettings { handshake_timeout: Duration::from_millis(300), max_handshakes: 2, ..LinkSettings::default() };
    let holder = cluster.start_as(1, identity(), limits).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(holder.address).await.unwrap());
    }
    let caller = PeerLink::new(&LinkSettings::default(), &identity(), cluster.living()).unwrap();
    let id = holder.create("tus", 10).await;
    until("a node gets through", async || caller.checkpoint(holder.engine.node(), id).await.is_ok()).await;
    for stream in silent {
        assert!(rest_of(stream).await.is_empty());
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let cluster = Cluster::new();
    let limits = LinkSettings { handshake_timeout: Duration::from_millis(300), ..LinkSettings::default() };
    let holder = cluster.start_as(1, identity(), limits).await;
    let tls = tokio_rustls::TlsConnector::from(Arc::new(identity().calling));
    let stream = TcpStream::connect(holder.address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("node").unwrap();
    let mut stream = tls.connect(name, stream).await.unwrap();
    stream.write_all(b"POST /peer/v1/yield HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let cluster = Cluster::new();
    let limits = LinkSettings { max_connections: 1, ..LinkSettings::default() };
    let holder = cluster.start_as(1, identity(), limits).await;
    let (peer, id) = (holder.engine.node(), holder.create("tus", 10).await);
    let first = PeerLink::new(&LinkSettings::default(), &identity(), cluster.living()).unwrap();
    first.checkpoint(peer, id).await.unwrap();
    let second = PeerLink::new(&LinkSettings::default(), &identity(), cluster.living()).unwrap();
    assert!(second.checkpoint(peer, id).await.is_err());
    drop(first);
    until("there is a place again", async || second.checkpoint(peer, id).await.is_ok()).await;
}
