//! TLS connections, and certificates that change while the server runs.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use edge::listen::certificates::CertificateFiles;
use longshore::app;
use longshore::config::{Config, Inputs};
use rustls::HandshakeKind;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::moving::{is_whole, resume, wait_until_taken};
use crate::support::patience::until;
use crate::support::program::{Program, run};
use crate::support::tls::{Certificate, connect, unwrapped};

#[tokio::test(flavor = "multi_thread")]
async fn uploads_pass_and_resume_over_both_versions_of_tls() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| certificate.configure(config)).await;
    let source: Vec<u8> = (0..3_000_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let connector = certificate.connector_of(&[version], &["http/1.1"]);
        let address = unwrapped(connector, app.address()).await;
        let mut client = Client::connect(address).await;
        let path = client.create(source.len() as u64).await;
        client.begin_patch(&path, 0, source.len() as u64).await;
        client.send(&source[..1_000_000]).await;
        wait_until_taken(address, &path, 1_000_000).await;
        client.rst();
        let mut asking = Client::connect(address).await;
        until("received bytes are committed", async || {
            (asking.status(&path).await["offset"] == 1_000_000).then_some(())
        })
        .await;
        assert_eq!(resume(address, &path, &source).await, 1_000_000, "{version:?}");
        is_whole(address, &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ask_for_nothing_speak_http_1() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| certificate.configure(config)).await;
    for offered in [&[][..], &["http/1.1"], &["http/1.1", "something-else"]] {
        let address = unwrapped(certificate.connector(offered), app.address()).await;
        assert_eq!(Client::connect(address).await.get("/healthz").await.status, 200, "{offered:?}");
    }
    let nothing_in_common = connect(&certificate.connector(&["something-else"]), app.address()).await;
    assert!(nothing_in_common.is_err());
}

/// Reports whether the server presents this certificate to new connections.
async fn shows(app: &TestApp, certificate: &Certificate) -> bool {
    connect(&certificate.connector(&[]), app.address()).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
    let (first, second, third) = (Certificate::new(), Certificate::new(), Certificate::new());
    let app = TestApp::with(|config| {
        first.configure(config);
        config.tls.reload_every = Duration::from_millis(10);
    })
    .await;
    let address = unwrapped(first.connector(&[]), app.address()).await;
    let mut connected = Client::connect(address).await;
    let path = connected.create(4).await;
    assert!(shows(&app, &first).await && !shows(&app, &second).await);

    let files = second.write(app.folder());
    until("the second is shown", async || shows(&app, &second).await.then_some(())).await;
    assert!(!shows(&app, &first).await);
    assert_eq!(connected.patch(&path, 0, b"data").await.status, 204, "connections live on");

    // A half-finished change, and files that are not certificates.
    for broken in [&*third.pem, "", "no certificate at all"] {
        fs::write(&files.certificate, broken).unwrap();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(shows(&app, &second).await, "{broken:?}");
        }
    }
    fs::remove_file(&files.private_key).unwrap();
    assert!(shows(&app, &second).await);
    third.write(app.folder());
    until("the third is shown", async || shows(&app, &third).await.then_some(())).await;
}

fn started_with(folder: &Path, files: &CertificateFiles) -> Program {
    let (certificate, private_key) = (files.certificate.to_str().unwrap(), files.private_key.to_str().unwrap());
    let flags = ["--tls-certificate-file", certificate, "--tls-private-key-file", private_key];
    Program::serve(&folder.join("data"), &[&flags[..], &["--tls-reload-every", "24h"]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_says_https_is_healthy_and_takes_a_new_certificate_when_hung_up() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (Certificate::new(), Certificate::new());
    let files = first.write(folder.path());
    let mut program = started_with(folder.path(), &files);
    let address = program.address();
    assert_eq!(program.stdout(), format!("listening on https://{address}\n"));
    let health = ["health", "--listen", &address.to_string(), "--tls-certificate-file", "any"];
    let healthy = run(&health);
    assert_eq!((healthy.code, healthy.stdout.as_str()), (Some(0), "ready\n"), "{healthy:?}");
    assert_eq!(run(&health[..3]).code, Some(1), "without TLS it is no answer");

    second.write(folder.path());
    program.signal("HUP");
    let connector = second.connector(&[]);
    until("the second is shown", async || connect(&connector, address).await.ok()).await;
    fs::write(&files.private_key, &first.key_pem).unwrap();
    program.signal("HUP");
    until("the log names the error", async || {
        program.stderr().contains("the private key does not match the certificate").then_some(())
    })
    .await;
    connect(&connector, address).await.unwrap();
    program.signal("TERM");
    assert_eq!(program.ran().code, Some(0));
}

/// Returns the reason why a server does not start with these files.
async fn refusal(folder: &Path, files: CertificateFiles) -> String {
    let mut config = Config::read(&Inputs::default()).unwrap();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.data_dir = folder.join("data");
    config.tls.files = Some(files);
    let error = app::start(config).await.expect_err("it cannot start");
    format!("{error:#}").replace(folder.to_str().unwrap(), "")
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_told_by_key() {
    let (good, other) = (Certificate::new(), Certificate::new());
    let cases = [
        (Some(good.pem.as_str()), None, "tls.private_key_file", "No such file or directory"),
        (None, Some(good.key_pem.as_str()), "tls.certificate_file", "No such file or directory"),
        (Some(""), Some(&good.key_pem), "tls.certificate_file", "the file contains no PEM certificate"),
        (Some(&good.key_pem), Some(&good.key_pem), "tls.certificate_file", "the file contains no PEM certificate"),
        (Some(&good.pem), Some(&good.pem), "tls.private_key_file", "the file contains no PEM private key"),
        (
            Some(&good.pem),
            Some(&other.key_pem),
            "tls.private_key_file",
            "the private key does not match the certificate",
        ),
        (Some(&good.pem[..200]), Some(&good.key_pem), "tls.certificate_file", "the file is not valid PEM"),
    ];
    for (certificate, private_key, key, why) in cases {
        let folder = TempDir::new().unwrap();
        let files = good.write(folder.path());
        for (path, content) in [(&files.certificate, certificate), (&files.private_key, private_key)] {
            match content {
                Some(content) => fs::write(path, content).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
        }
        let said = refusal(folder.path(), files).await;
        assert!(said.starts_with(&format!("could not use {key} = \"/")) && said.contains(why), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_http_2_than_the_machine_has_memory_for_is_refused() {
    let folder = TempDir::new().unwrap();
    let files = Certificate::new().write(folder.path());
    let mut config = Config::read(&Inputs::default()).unwrap();
    config.server.data_dir = folder.path().join("data");
    config.tls.files = Some(files);
    config.http2.memory_bytes = 1 << 40;
    config.unset.remove("http2.memory");
    let error = app::start(config).await.expect_err("it cannot start").to_string();
    assert!(error.contains("http2.memory = 1048576MiB exceeds the memory of this machine ("), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_never_ends_is_cut() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| {
        certificate.configure(config);
        config.tls.handshake_timeout = Duration::from_millis(200);
    })
    .await;
    // Nothing, the first bytes of a handshake, and data that is not TLS.
    for sent in [&b""[..], &[0x16, 3, 1, 2, 0, 1, 0], b"GET /healthz HTTP/1.1\r\n\r\n"] {
        let mut client = app.client().await;
        client.send(sent).await;
        let mut heard = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), client.stream.read_to_end(&mut heard)).await;
        match ended.expect("the server ends it") {
            Ok(_) => assert!(!heard.starts_with(b"HTTP"), "{heard:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_takes_a_short_cut() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| certificate.configure(config)).await;
    for alpn in ["http/1.1", "h2"] {
        let connector = certificate.connector(&[alpn]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut stream = connect(&connector, app.address()).await.unwrap();
            // The server's tickets arrive after the handshake, with or before the other data.
            stream.write_all(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").await.unwrap();
            // The response may be invalid HTTP/2; the connection ends in any case.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            kinds.push(stream.get_ref().1.handshake_kind());
        }
        assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)], "{alpn}");
    }
}
