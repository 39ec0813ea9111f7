//! The sender of the real server: settings of single endpoints, protection of receivers and of the server
//! itself, and heartbeats.

use std::net::SocketAddr;
use std::time::Duration;

use futures::FutureExt as _;
use longshore::config::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::patience::{until, until_fits};
use crate::support::process::Process;
use crate::support::receiver::SECRET;
use crate::support::scripted::{Reply, Request, Scripted, closed_port};
use crate::support::tls::{Certificate, wrapped};

const OLD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PRIVATE_KEY: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";

/// Requests the deliveries repeatedly until one fits.
async fn delivery(client: &mut Client, query: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/api/v1/webhooks/deliveries?{query}");
    let list = async || client.get(&path).await.json()["deliveries"].as_array().unwrap().clone();
    let listed = until_fits("a delivery fits", list, |found| found.iter().any(&fits)).await;
    listed.into_iter().find(fits).unwrap()
}

fn was_tried(delivery: &Value) -> bool {
    !delivery["attempts"].as_array().unwrap().is_empty()
}

/// Returns the outcome of the first attempt to deliver the event of a creation.
async fn first_error(url: &str, change: impl FnOnce(&mut Config)) -> Value {
    let file = format!("[[webhooks.endpoints]]\nurl = '{url}'\nsecret = '{SECRET}'\nevents = ['upload.created']\n");
    let app = TestApp::from_file(&file, change).await;
    let mut client = app.client().await;
    client.create(5).await;
    delivery(&mut client, "event=upload.created", was_tried).await["attempts"][0].clone()
}

/// webhooks P6, H6, H10, H12, A2: the settings of a block in the configuration.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_the_configuration_has_terms_of_its_own() {
    let (all, some) = (Scripted::start(OLD_SECRET).await, Scripted::start(SECRET).await);
    let url = |receiver: &Scripted| format!("http://{}/hook", receiver.address);
    let file = format!(
        "[[webhooks.endpoints]]\nname = 'thin'\nurl = '{}'\nsecret = '{SECRET}'\nold_secrets = ['{OLD_SECRET}']\n\
         private_key = '{PRIVATE_KEY}'\npayload = 'thin'\nheaders = {{ x-token = 't0p' }}\n\
         [[webhooks.endpoints]]\nname = 'tenant'\nurl = '{}'\nsecret = '{SECRET}'\nmetadata = {{ tenant = 'a' }}\n\
         ordering = 'none'\nmax_in_flight = 1\nmax_per_second = 100\n",
        url(&all),
        url(&some),
    );
    let app = TestApp::from_file(&file, |_| {}).await;
    let mut client = app.client().await;
    for tenant in ["YQ==", "Yg=="] {
        let metadata = format!("tenant {tenant}");
        let headers = [("Upload-Length", "0"), ("Upload-Metadata", metadata.as_str())];
        assert_eq!(client.tus("POST", "/files", &headers, b"").await.status, 201);
    }
    let heard = all.wait_for(|heard| heard.iter().filter(|one| one.kind() == "upload.completed").count() == 2).await;
    for request in &heard {
        assert_eq!(request.headers["x-token"], "t0p");
        let signatures: Vec<&str> = request.headers["webhook-signature"].split(' ').collect();
        let versions: Vec<&str> = signatures.iter().map(|one| one.split(',').next().unwrap()).collect();
        assert_eq!(versions, ["v1", "v1", "v1a"], "both secrets and the key");
        assert!(request.json["data"].get("metadata").is_none(), "thin: {:#}", request.json);
    }
    let selected = some.wait_for(|heard| heard.iter().any(|one| one.kind() == "upload.completed")).await;
    assert!(selected.iter().all(|request| request.json["data"]["metadata"]["tenant"] == "a"));
}

/// webhooks P5, P6: an event, full or thin, says where the rest is available.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_says_where_the_status_of_its_upload_is() {
    let (full, thin) = (Scripted::start(SECRET).await, Scripted::start(SECRET).await);
    let file = full.endpoint("full", "['upload.*']") + &thin.endpoint("thin", "['upload.*']") + "payload = 'thin'\n";
    for public_url in [None, Some("https://uploads.example/here")] {
        let app = TestApp::from_file(&file, |config| config.server.public_url = public_url.map(str::to_owned)).await;
        let mut client = app.client().await;
        let path = client.create(0).await;
        let id = path.rsplit('/').next().unwrap();
        let told = format!("{}/api/v1/uploads/{id}", public_url.unwrap_or_default());
        for receiver in [&full, &thin] {
            let last = |one: &Request| one.upload() == id && one.kind() == "upload.completed";
            let heard = receiver.wait_for(|heard| heard.iter().any(last)).await;
            for request in heard.iter().filter(|one| one.upload() == id) {
                assert_eq!(request.json["data"]["url"], told.as_str(), "{:#}", request.json);
            }
            let data = &heard.iter().find(|one| last(one)).unwrap().json["data"];
            let said = (&data["stage"], &data["offset"], &data["length"]);
            assert_eq!(said, (&json!("completed"), &json!(0), &json!(0)), "{data:#}");
        }
        // Events with more fields than others have a thin form, too, and their schema allows it.
        let heard = thin.heard();
        let token = &heard.iter().find(|one| one.upload() == id).unwrap().headers["webhook-stage-token"];
        let authorized = ("Authorization", format!("Bearer {token}"));
        let stages = format!("/api/v1/uploads/{id}/stages");
        let report = br#"{"name": "hls"}"#;
        let answer = client.request("POST", &stages, &[(authorized.0, &authorized.1)], report).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let reported = |one: &Request| one.upload() == id && one.kind() == "upload.processing";
        thin.wait_for(|heard| heard.iter().any(reported)).await;
        if public_url.is_none() {
            assert_eq!(client.get(&told).await.json()["stage"], "completed");
        }
    }
}

/// webhooks E4: an open breaker survives a restart, and no attempt is used up.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_keeps_failing_is_spared_also_after_a_restart() {
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Status("500 Oops"));
    let mut app = TestApp::from_file(&receiver.endpoint("app", "['upload.created']"), |config| {
        config.webhooks.sending.health.breaker_failures = 3;
        config.webhooks.sending.health.breaker_pause = Duration::from_secs(600);
    })
    .await;
    let mut client = app.client().await;
    for _ in 0..3 {
        let path = client.create(5).await;
        let upload = format!("upload={}", path.rsplit('/').next().unwrap());
        delivery(&mut client, &upload, was_tried).await;
    }
    let sent = receiver.heard().len();
    app.restart().await;
    receiver.always(Reply::Status("204 No Content"));
    let mut client = app.client().await;
    client.create(5).await;
    let waiting = delivery(&mut client, "state=ready", |found| !was_tried(found)).await;
    assert_eq!(waiting["type"], "upload.created");
    let metrics = String::from_utf8(client.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("longshore_webhook_endpoints{state=\"open\"} 1"), "{metrics}");
    assert_eq!(receiver.heard().len(), sent);
}

/// webhooks S7: not even when the configuration allows it.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_not_its_own_receiver() {
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let own = closed_port().await;
        let url = format!("http://{host}:{}/files", own.port());
        let attempt = first_error(&url, |config| config.server.listen = own).await;
        assert_eq!((&attempt["error"], &attempt["status"]), (&Value::from("blocked_ip"), &Value::Null), "{host}");
    }
}

/// webhooks S6: the configuration may allow private addresses, but not those where clouds keep secrets.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_where_clouds_keep_secrets_is_refused_at_the_start() {
    for url in ["http://169.254.169.254/latest", "http://[fd00:ec2::254]/", "http://2852039166/"] {
        let file = format!("[[webhooks.endpoints]]\nname = 'bad'\nurl = '{url}'\nsecret = '{SECRET}'\n");
        let folder = tempfile::tempdir().unwrap();
        let inputs = longshore::config::Inputs {
            file: Some(("test.toml".into(), file)),
            ..longshore::config::Inputs::default()
        };
        let mut config = Config::read(&inputs).unwrap();
        config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.data_dir = folder.path().join("data");
        let error = longshore::app::start(config).await.expect_err("it does not start");
        let told = format!("{error:#}");
        assert!(told.contains("endpoint bad") && told.contains("cloud metadata service"), "{told}");
    }
}

/// webhooks R1: an untrusted certificate, and a server of another protocol.
#[tokio::test(flavor = "multi_thread")]
async fn bad_tls_is_a_failure_of_its_own_class() {
    let certificate = Certificate::new();
    let untrusted = TestApp::with(|config| certificate.configure(config)).await;
    let attempt = first_error(&format!("https://{}/hook", untrusted.address()), |_| {}).await;
    assert_eq!(attempt["error"], "tls", "{attempt:#}");
    let plain = TestApp::start().await;
    let attempt = first_error(&format!("https://{}/hook", plain.address()), |_| {}).await;
    assert_eq!(attempt["error"], "tls", "{attempt:#}");
}

/// Only the certificates of the platform are trusted; here the test sets them.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_a_trusted_certificate_is_sent_to() {
    let receiver = Scripted::start(SECRET).await;
    let certificate = Certificate::new();
    let address = wrapped(&certificate, receiver.address).await;
    let folder = tempfile::tempdir().unwrap();
    let trusted = certificate.write(folder.path()).certificate;
    let file = folder.path().join("longshore.toml");
    let text = format!(
        "[webhooks]\n[[webhooks.endpoints]]\nname = 'secure'\nurl = 'https://{address}/hook'\nsecret = '{SECRET}'\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Process::command(&folder.path().join("data"), &["--config", file.to_str().unwrap()]);
    let process = Process::spawn(command.env("SSL_CERT_FILE", &trusted).env_remove("SSL_CERT_DIR"));
    let mut client = process.client().await;
    client.create(5).await;
    receiver.wait_for_kind("upload.created").await;
    let told = delivery(&mut client, "state=succeeded", was_tried).await;
    let attempt = &told["attempts"][0];
    assert_eq!((&attempt["status"], &attempt["error"]), (&json!(204), &Value::Null), "{attempt:#}");
}

/// webhooks S8: messages ignore the proxies of the environment, with TLS or without.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_environment_are_not_used() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (plain, secure) = (Scripted::start(SECRET).await, Scripted::start(SECRET).await);
    let certificate = Certificate::new();
    let behind_tls = wrapped(&certificate, secure.address).await;
    let folder = tempfile::tempdir().unwrap();
    let trusted = certificate.write(folder.path()).certificate;
    let file = folder.path().join("longshore.toml");
    let text = plain.endpoint("plain", "['upload.created']")
        + &format!("[[webhooks.endpoints]]\nname = 'secure'\nurl = 'https://{behind_tls}/hook'\nsecret = '{SECRET}'\n");
    std::fs::write(&file, text).unwrap();
    let mut command = Process::command(&folder.path().join("data"), &["--config", file.to_str().unwrap()]);
    command.env("SSL_CERT_FILE", &trusted).env_remove("SSL_CERT_DIR");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env(name, format!("http://{}", proxy.local_addr().unwrap()));
    }
    command.env_remove("NO_PROXY").env_remove("no_proxy").env_remove("REQUEST_METHOD");
    let process = Process::spawn(&mut command);
    process.client().await.create(5).await;
    let heard = async { tokio::join!(plain.wait_for_kind("upload.created"), secure.wait_for_kind("upload.created")) };
    tokio::select! {
        biased;
        asked = proxy.accept() => panic!("the proxy was asked: {asked:?}"),
        _ = heard => {}
    }
    assert!(proxy.accept().now_or_never().is_none(), "no connection was made");
}

/// webhooks S9: CA certificates are set for one endpoint, in the API and in the file, and no other CA is
/// trusted there.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_has_certificate_authorities_of_its_own() {
    let receiver = Scripted::start(SECRET).await;
    let (certificate, other) = (Certificate::new(), Certificate::new());
    let url = format!("https://{}/hook", wrapped(&certificate, receiver.address).await);
    let folder = tempfile::tempdir().unwrap();
    let ca = certificate.write(folder.path()).certificate;
    let file = format!(
        "[webhooks]\nallow_networks = ['127.0.0.0/8']\n[[webhooks.endpoints]]\nname = 'file'\nurl = '{url}'\n\
         secret = '{SECRET}'\nca_file = '{}'\n",
        ca.display()
    );
    let app = TestApp::from_file(&file, |_| {}).await;
    let mut client = app.client().await;
    let mut ask = async |method: &str, path: &str, body: Value| {
        let headers = [("Content-Type", "application/json")];
        client.request(method, &format!("/api/v1/webhooks{path}"), &headers, body.to_string().as_bytes()).await
    };
    let tested = |answer: &Answer| {
        let attempt = answer.json()["attempts"][0].clone();
        (attempt["status"].clone(), attempt["error"].clone())
    };
    let [well, distrusted] = [(json!(204), Value::Null), (Value::Null, json!("tls"))];
    assert_eq!(tested(&ask("POST", "/endpoints/file/test", json!({})).await), well);

    let receiver = Scripted::start(OLD_SECRET).await;
    let url = format!("https://{}/hook", wrapped(&certificate, receiver.address).await);
    let said = json!({ "id": "api", "url": url, "secret": OLD_SECRET, "ca_certificates": certificate.pem });
    let made = ask("POST", "/endpoints", said).await;
    assert_eq!((made.status, &made.json()["ca_certificates"]), (201, &json!(certificate.pem)));
    assert_eq!(tested(&ask("POST", "/endpoints/api/test", json!({})).await), well);
    for (said, expected) in
        [(json!(other.pem), &distrusted), (json!(null), &distrusted), (json!(certificate.pem), &well)]
    {
        let changed = ask("PATCH", "/endpoints/api", json!({ "ca_certificates": said })).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        assert_eq!(tested(&ask("POST", "/endpoints/api/test", json!({})).await), *expected);
    }
    for (url, pem) in [(&*url, "no certificate"), ("http://127.0.0.1:9/", &*certificate.pem)] {
        let refused = ask("PATCH", "/endpoints/api", json!({ "url": url, "ca_certificates": pem })).await;
        assert_eq!(refused.status, 422, "{refused:?}");
    }
}

/// A receiver that accepts connections slowly.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_accepts_late_gets_its_message() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let file = format!("[[webhooks.endpoints]]\nurl = '{url}'\nsecret = '{SECRET}'\nevents = ['upload.created']\n");
    let app = TestApp::from_file(&file, |_| {}).await;
    let mut client = app.client().await;
    client.create(5).await;
    delivery(&mut client, "state=leased", |_| true).await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut some = [0; 64];
    assert!(stream.read(&mut some).await.unwrap() > 0);
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    let told = delivery(&mut client, "state=succeeded", was_tried).await;
    assert_eq!(told["attempts"][0]["status"], 204);
}

/// webhooks R5: a proxy that cannot reach its receiver gets fewer and fewer concurrent attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_gateway_is_spared_by_halves() {
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Status("502 Bad Gateway"));
    let app = TestApp::from_file(&receiver.endpoint("app", "['upload.created']"), |config| {
        config.webhooks.sending.health.breaker_failures = 0;
        config.webhooks.sending.max_in_flight_per_endpoint = 4;
    })
    .await;
    let mut client = app.client().await;
    for _ in 0..2 {
        let path = client.create(5).await;
        let upload = format!("upload={}", path.rsplit('/').next().unwrap());
        delivery(&mut client, &upload, was_tried).await;
    }
    receiver.always(Reply::Hang);
    for _ in 0..4 {
        client.create(5).await;
    }
    delivery(&mut client, "state=leased", |_| true).await;
    let asked = client.get("/api/v1/webhooks/deliveries?state=leased").await.json();
    assert_eq!(asked["deliveries"].as_array().unwrap().len(), 1, "of four slots one is left: {asked:#}");
}

/// webhooks O3.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_and_not_sent_makes_the_server_unready() {
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Hold);
    let app = TestApp::from_file(&receiver.endpoint("app", "['upload.created']"), |config| {
        config.webhooks.sending.max_in_flight_per_endpoint = 1;
        config.webhooks.sending.max_due_age = Duration::from_millis(200);
        config.webhooks.sending.timeout = Duration::from_secs(30);
    })
    .await;
    let mut client = app.client().await;
    assert_eq!(client.get("/readyz").await.status, 200);
    client.create(5).await;
    client.create(5).await;
    receiver.wait_for_count(1).await;
    let unready = until("it is not ready", async || {
        let answer = app.client().await.get("/readyz").await;
        (answer.status == 503).then_some(answer)
    });
    let told = unready.await.json();
    assert!(told["detail"].as_str().unwrap().contains("a delivery has been due"), "{told:#}");
    receiver.release();
    until("it is ready again", async || (app.client().await.get("/readyz").await.status == 200).then_some(())).await;
}
