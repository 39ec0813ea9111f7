//! Personal data is gone when it had to be deleted, from the files of the database as well.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::program::Program;
use crate::support::receiver::Receiver;
use crate::support::seeded::Seeded;

/// Returns the occurrences of a text in a folder, by file.
fn found(text: &str, below: &Path) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    crate::support::app::collect_files(below, &mut found);
    let hits = found.into_iter().map(|path| {
        let bytes = fs::read(&path).unwrap();
        let count = bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count();
        (path.file_name().unwrap().to_string_lossy().into_owned(), count)
    });
    hits.filter(|(_, count)| *count > 0).collect()
}

async fn expunge(client: &mut Client, path: &str) {
    let id = path.rsplit('/').next().unwrap();
    let body = json!({ "upload_id": id }).to_string();
    let headers = [("Content-Type", "application/json")];
    let answer = client.request("POST", "/api/v1/webhooks/expunge", &headers, body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Other uploads are created and deleted meanwhile, so that rows move between the pages of the file.
#[tokio::test(flavor = "multi_thread")]
async fn after_deletion_and_expunging_no_name_is_left_anywhere() {
    const NAME: &str = "Erika-Mustermann-1964.mp4";
    let receiver = Receiver::start().await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("longshore.toml");
    fs::write(&file, receiver.endpoint(r#"["upload.*"]"#)).unwrap();
    let data = folder.path().join("data");
    let flags = ["--config", file.to_str().unwrap(), "--log-level", "debug"];
    let mut program = Program::serve(&data, &flags);
    let mut client = Client::connect(program.address()).await;
    let mut dice = Seeded::new(5);
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for round in 0..60_usize {
        let filler = "x".repeat(10 + dice.below(5_000));
        let name = if round % 3 == 0 { NAME } else { "others.mp4" };
        let body = format!("{name}-{round}");
        let metadata = format!("filename {}, note {}", base64(&body), base64(&filler));
        let headers = [("Upload-Length", "5"), ("Upload-Metadata", metadata.as_str())];
        let created = client.tus("POST", "/files", &headers, b"").await;
        let path = created.header("location").unwrap().to_owned();
        let status = client.patch(&path, 0, if round % 2 == 0 { b"hello" } else { b"hel" }).await.status;
        assert_eq!(status, 204);
        if round % 3 == 0 { named.push(path) } else { others.push(path) }
    }
    // The path of a plain upload contains the name.
    let plain = client.request("PUT", &format!("/files/{NAME}"), &[], b"hello").await;
    named.push(plain.header("location").unwrap().to_owned());
    receiver.wait_for(|heard| heard.iter().filter(|event| event.kind() == "upload.completed").count() == 31).await;
    assert!(!found(NAME, &data).is_empty(), "it is there before");
    for (number, path) in named.iter().enumerate() {
        let status = path.replace("/files/", "/api/v1/uploads/");
        if number % 2 == 0 {
            assert_eq!(client.tus("DELETE", path, &[], b"").await.status, 204);
        } else {
            assert_eq!(client.request("DELETE", &status, &[], b"").await.status, 204);
        }
        expunge(&mut client, path).await;
        let told = client.status(path).await;
        assert_eq!((&told["filename"], &told["metadata"]), (&Value::Null, &json!({})));
        let deliveries = format!("/api/v1/webhooks/deliveries?upload={}", path.rsplit('/').next().unwrap());
        assert!(!String::from_utf8_lossy(&client.get(&deliveries).await.body).contains(NAME));
    }
    assert_eq!(client.status(&others[0]).await["filename"], "others.mp4-1", "the others keep theirs");
    program.signal("TERM");
    let ran = program.ran();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(found(NAME, &data), []);
    assert!(!ran.stderr.contains(NAME) && !ran.stdout.contains(NAME), "{}", ran.stderr);
    assert!(!found("others.mp4", &data).is_empty());
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}
