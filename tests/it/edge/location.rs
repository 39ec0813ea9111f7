//! The address of an upload in `Location`: a path, or a whole URL if no proxy is in between.

use edge::clients::ProxyField;
use longshore::config::SecretText;

use crate::ranged::{JSON, START};
use crate::support::app::TestApp;
use crate::support::client::{Client, TUS};

/// Returns the `Location` in the response to a request with this host.
async fn told(client: &mut Client, host: &str, target: &str, fields: &[(&str, &str)], version: &str) -> String {
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("POST {target} HTTP/{version}\r\nHost: {host}\r\nContent-Length: 0\r\n{fields}\r\n");
    client.send(head.as_bytes()).await;
    let answer = client.raw_answer("POST").await.expect("an answer");
    let location = answer.location_as_sent.clone().unwrap_or_else(|| panic!("{answer:?}"));
    *client = Client::connect(client.address).await;
    location
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_directly_is_told_the_whole_address() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let port = app.address().port();
    let tus = [TUS, ("Upload-Length", "5")];
    let ietf = [("Upload-Complete", "?0")];
    let other_port = format!("localhost:{}", port.wrapping_add(1));
    let own = format!("localhost:{port}");
    let mut forwarded = tus.to_vec();
    forwarded.push(("X-Forwarded-For", "192.0.2.1"));
    let mut via = tus.to_vec();
    via.push(("Via", "1.1 proxy"));
    for (host, fields, version, whole, why) in [
        (own.as_str(), &tus[..], "1.1", true, "its port is the one that was reached"),
        (&own, &ietf, "1.1", true, "in every protocol"),
        (&own, &[JSON], "1.1", true, "in every protocol"),
        (&own, &forwarded, "1.1", false, "a proxy has passed it on"),
        (&own, &via, "1.1", false, "a proxy has passed it on"),
        (&own, &tus, "1.0", false, "nginx speaks this to those behind it"),
        (&other_port, &tus, "1.1", false, "something stands at another port"),
        ("localhost", &tus, "1.1", false, "something may stand at the port of the scheme"),
    ] {
        if fields == [JSON] {
            let answer = client.request("POST", "/files", fields, b"{}").await;
            let location = answer.location_as_sent.unwrap();
            assert!(location.starts_with(&format!("http://127.0.0.1:{port}/files/")), "{why}: {location}");
            continue;
        }
        let location = told(&mut client, host, "/files", fields, version).await;
        let beginning = if whole { format!("http://{host}/files/") } else { "/files/".to_owned() };
        assert!(location.starts_with(&beginning), "{why}: {host} {fields:?}: {location}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_it_is_a_path() {
    let app = TestApp::with(|config| config.server.proxies.trusted = vec!["127.0.0.0/8".parse().unwrap()]).await;
    let host = app.address().to_string();
    let location = told(&mut app.client().await, &host, "/files", &[TUS, ("Upload-Length", "5")], "1.1").await;
    assert!(location.starts_with("/files/"), "{location}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_session_can_be_reached() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let port = app.address().port();
    for (host, expected) in [
        ("localhost".to_owned(), format!("http://localhost:{port}/files/")),
        ("127.0.0.1".to_owned(), format!("http://127.0.0.1:{port}/files/")),
        (format!("localhost:{port}"), format!("http://localhost:{port}/files/")),
        ("localhost:9".to_owned(), "http://localhost:9/files/".to_owned()),
    ] {
        let location = told(&mut client, &host, START, &[], "1.1").await;
        assert!(location.starts_with(&expected), "{host}: {location}");
    }
    let behind_a_proxy = [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-Proto", "https")];
    let location = told(&mut client, "localhost", START, &behind_a_proxy, "1.1").await;
    assert!(location.starts_with("http://localhost/files/"), "a proxy there has a separate port: {location}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_is_believed_about_the_scheme_and_nobody_else() {
    for (header, field) in [
        (ProxyField::XForwardedFor, ("X-Forwarded-Proto", "https")),
        (ProxyField::Forwarded, ("Forwarded", "for=192.0.2.1;proto=https")),
    ] {
        for (trusted, scheme) in [("127.0.0.0/8", "https"), ("10.0.0.0/8", "http")] {
            let app = TestApp::with(|config| {
                config.server.proxies.trusted = vec![trusted.parse().unwrap()];
                config.server.proxies.field = header;
                config.auth.token = Some(SecretText::new("correct-horse-battery-staple".to_owned()));
            })
            .await;
            let fields = [field, ("Authorization", "Bearer correct-horse-battery-staple")];
            let location = told(&mut app.client().await, "up.example.com", START, &fields, "1.1").await;
            assert!(
                location.starts_with(&format!("{scheme}://up.example.com/files/")),
                "{trusted} {field:?}: {location}"
            );
        }
    }
}
