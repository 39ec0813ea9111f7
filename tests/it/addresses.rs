//! Identification of clients by address, behind trusted proxies: limits per client, the minimum rate of
//! bodies, and which proxies are trusted.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use edge::clients::ProxyField;
use longshore::config::{Config, SecretText};

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS, TUS};
use crate::support::http2;
use crate::support::patience::until;
use crate::support::tls::Certificate;

/// The header with which a proxy on this machine names a client on another one.
const NEAR: (&str, &str) = ("X-Forwarded-For", "192.0.2.1");
const FAR: (&str, &str) = ("X-Forwarded-For", "198.51.100.9, 203.0.113.7, 127.0.0.5");

fn behind_a_proxy(config: &mut Config) {
    config.server.proxies.trusted = vec!["127.0.0.0/8".parse().unwrap()];
}

/// Begins an append of ten bytes and sends one.
async fn begin(app: &TestApp, path: &str, from: Option<(&str, &str)>) -> Client {
    let mut client = app.client().await;
    let headers = [TUS, OCTETS, ("Upload-Offset", "0"), ("Content-Length", "10")];
    client.send_head("PATCH", path, &[&headers[..], from.as_slice()].concat()).await;
    client.send(b"x").await;
    client
}

async fn patched(app: &TestApp, path: &str, from: (&str, &str)) -> Answer {
    let headers = [OCTETS, from, ("Upload-Offset", "0")];
    app.client().await.tus("PATCH", path, &headers, b"0123456789").await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_has_its_share_of_uploads() {
    let app = TestApp::with(|config| {
        behind_a_proxy(config);
        config.limits.max_active_uploads_per_address = Some(2);
    })
    .await;
    let mut client = app.client().await;
    let (mut paths, mut begun) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        paths.push(client.create(10).await);
    }
    for path in &paths[..2] {
        begun.push(begin(&app, path, Some(NEAR)).await);
        crate::support::moving::wait_until_taken(app.address(), path, 1).await;
    }
    let refused = patched(&app, &paths[2], NEAR).await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "too-many-uploads"), "{refused:?}");
    assert_eq!(client.offset(&paths[2]).await, 0, "it brought nothing");
    let asked = app.client().await.tus("HEAD", &paths[0], &[NEAR], b"").await;
    assert_eq!(asked.status, 200, "asking is free");
    assert_eq!(patched(&app, &paths[3], FAR).await.status, 204, "each address has a separate share");
    let loopback = [begin(&app, &paths[5], None).await, begin(&app, &paths[6], None).await];
    assert_eq!(
        patched(&app, &paths[7], ("X-Forwarded-For", "127.0.0.8")).await.status,
        204,
        "this machine is not limited"
    );
    drop((begun, loopback));
    let freed = until("its share is free again", async || {
        Some(patched(&app, &paths[2], NEAR).await).filter(|answer| answer.status == 204)
    });
    freed.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_has_its_share_of_streams_and_long_polls() {
    let app = TestApp::with(|config| {
        behind_a_proxy(config);
        config.server.proxies.field = ProxyField::Forwarded;
        config.status.max_streams_per_address = Some(1);
    })
    .await;
    let near = ("Forwarded", "for=192.0.2.1;proto=https");
    let status = app.client().await.create(10).await.replace("/files/", "/api/v1/uploads/");
    let mut stream = app.client().await;
    stream.send_head("GET", "/api/v1/events", &[near]).await;
    assert!(stream.read_until(b"event: snapshot").await.is_some());
    let waiting = format!("{status}?wait=50ms");
    for path in ["/api/v1/events", &format!("{status}/events"), &waiting] {
        // The other header is ignored.
        let refused = app.client().await.request("GET", path, &[near, ("X-Forwarded-For", "203.0.113.7")], b"").await;
        assert_eq!((refused.status, refused.problem().as_str()), (503, "too-many-streams"), "{path}: {refused:?}");
    }
    let far = ("Forwarded", "for=\"[2001:db8::1]:80\"");
    assert_eq!(app.client().await.request("GET", &waiting, &[far], b"").await.status, 200);
    assert_eq!(app.client().await.request("GET", &status, &[near], b"").await.status, 200, "not waiting is free");
    drop(stream);
    until("its share is free again", async || {
        let answer = app.client().await.request("GET", &waiting, &[near], b"").await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_believed() {
    let app = TestApp::with(|config| config.limits.max_active_uploads_per_address = Some(1)).await;
    let mut client = app.client().await;
    let paths = [client.create(10).await, client.create(10).await];
    let _begun = begin(&app, &paths[0], Some(NEAR)).await;
    crate::support::moving::wait_until_taken(app.address(), &paths[0], 1).await;
    assert_eq!(patched(&app, &paths[1], NEAR).await.status, 204, "it comes from this machine, with any header");
}

/// Returns an address of this machine that is not loopback, if there is one. Sends nothing.
fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
}

const TOKEN: (&str, &str) = ("Authorization", "Bearer the-shared-token");

/// Starts a server that is reached at a network address. Returns `None` if this machine has none.
async fn on_the_network(change: impl FnOnce(&mut Config)) -> Option<TestApp> {
    let Some(address) = other_address() else {
        eprintln!("skipped: this machine has no address but loopback");
        return None;
    };
    let on_network = |config: &mut Config| {
        config.server.listen = SocketAddr::new(address, 0);
        config.auth.token = Some(SecretText::new("the-shared-token".to_owned()));
        change(config);
    };
    Some(TestApp::with(on_network).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_has_its_share_of_connections() {
    let Some(app) = on_the_network(|config| config.limits.max_connections_per_address = Some(2)).await else { return };
    let mut held = [app.client().await, app.client().await];
    for client in &mut held {
        assert_eq!(client.get("/healthz").await.status, 200);
    }
    let mut third = app.client().await;
    third.send_head("GET", "/healthz", &[]).await;
    let refused = third.answer("GET").await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "too-many-connections"), "{refused:?}");
    drop(held);
    until("its share is free again", async || {
        let mut again = app.client().await;
        again.send_head("GET", "/healthz", &[]).await;
        again.raw_answer("GET").await.filter(|answer| answer.status == 200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_are_taken_from_this_machine_and_trusted_proxies_only() {
    let own = ("X-Request-ID", "chosen-by-the-client");
    let told = async |app: &TestApp| {
        let answer = app.client().await.request("GET", "/api/v1/uploads", &[TOKEN, own], b"").await;
        assert_eq!(answer.status, 200);
        answer.header("x-request-id") == Some(own.1)
    };
    assert!(told(&TestApp::start().await).await);
    let (Some(address), Some(app)) = (other_address(), on_the_network(|_| {}).await) else { return };
    assert!(!told(&app).await, "a stranger could pass for another request");
    let trusting = |config: &mut Config| config.server.proxies.trusted = vec![address.to_string().parse().unwrap()];
    assert!(told(&on_the_network(trusting).await.unwrap()).await);
}

fn in_a_hurry(config: &mut Config) {
    behind_a_proxy(config);
    config.limits.bodies.idle_timeout = Duration::from_secs(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_below_the_minimum_rate_is_ended_without_an_answer_and_what_came_is_kept() {
    let app = TestApp::with(in_a_hurry).await;
    let path = app.client().await.create(1_000).await;
    for (from, is_ended) in [(NEAR, true), (("X-Forwarded-For", "127.0.0.7"), false)] {
        let mut client = app.client().await;
        let at = app.client().await.offset(&path).await;
        let (offset, length) = (at.to_string(), (1_000 - at).to_string());
        let headers = [TUS, OCTETS, from, ("Upload-Offset", &offset), ("Content-Length", &length)];
        client.send_head("PATCH", &path, &headers).await;
        let mut ended = None;
        for sent in 0..30 {
            client.send(b"x").await;
            let read = tokio::time::timeout(Duration::from_millis(100), client.read_until(b"\r\n"));
            if let Ok(heard) = read.await {
                assert_eq!(heard, None, "there is no answer");
                ended = Some(sent);
                break;
            }
        }
        assert_eq!(ended.is_some(), is_ended, "{from:?}");
        if let Some(sent) = ended {
            assert!(sent >= 5, "it is judged by the average over a second: {sent}");
            let kept = app.client().await.offset(&path).await;
            assert!(kept >= at + 5 && kept <= at + sent + 1, "{kept} of {sent}");
        }
    }
    let metrics = String::from_utf8(app.client().await.get("/metrics").await.body).unwrap();
    assert!(metrics.contains("longshore_refusals_total{reason=\"slow-body\"} 1\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_only_the_slow_request_is_ended() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| {
        certificate.configure(config);
        in_a_hurry(config);
    })
    .await;
    let mut client = http2::Client::connect(app.address(), &certificate).await;
    let path = client.create(1_000).await;
    let headers = [TUS, OCTETS, NEAR, ("Upload-Offset", "0"), ("Content-Length", "1000")];
    let mut slow = client.begin("PATCH", &path, &headers, false).await;
    let ended = async {
        while slow.send(Bytes::from_static(b"x")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it is ended");
    assert!(slow.status().await.is_err(), "without an answer");
    assert!(client.offset(&path).await >= 5, "the connection stays open, and received bytes are kept");
}
