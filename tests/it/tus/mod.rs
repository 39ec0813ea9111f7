//! tus 1.0, item by item: the permitted requests and the required responses.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::patience::until_fits;

mod append;
mod bad_input;
mod checksum;
mod concatenation;
mod cors;
mod creation;
mod discovery;
mod expiration;
mod head;
mod metadata;
mod replies;
mod termination;

/// Returns padded base64 of the standard alphabet, as tus writes metadata and checksums.
pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Creates an upload with these headers, and returns its path.
pub async fn create_with(client: &mut Client, headers: &[(&str, &str)]) -> String {
    let answer = client.tus("POST", "/files", headers, b"").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.header("location").expect("a creation says where").to_owned()
}

/// Creates an upload, sends all its bytes, and returns its path.
pub async fn completed(client: &mut Client, headers: &[(&str, &str)], bytes: &[u8]) -> String {
    let length = bytes.len().to_string();
    let mut all = vec![("Upload-Length", length.as_str())];
    all.extend_from_slice(headers);
    let upload = create_with(client, &all).await;
    assert_eq!(client.patch(&upload, 0, bytes).await.status, 204);
    upload
}

/// Returns the bytes after an offset.
pub fn rest_of(bytes: &[u8], offset: u64) -> &[u8] {
    &bytes[usize::try_from(offset).unwrap()..]
}

/// Returns every upload that the server lists, newest first.
pub async fn known_uploads(client: &mut Client) -> Vec<Value> {
    let answer = client.get("/api/v1/uploads").await;
    let mut uploads = answer.json()["uploads"].as_array().expect("a list of uploads").clone();
    for upload in &mut uploads {
        // This field depends on whether the file is still open from the last request, and not on the upload.
        upload["bytes_per_second"].take();
    }
    uploads
}

/// Requests the status repeatedly until it is as wanted.
pub async fn wait_for_status(client: &mut Client, upload: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    until_fits("the status is as wanted", async || client.status(upload).await, wanted).await
}

/// Waits until the server stores no byte of any upload.
pub async fn wait_until_nothing_is_stored(app: &TestApp) {
    until_fits("no file is left", async || app.stored_files(), Vec::is_empty).await;
}

/// Waits until the server stores no byte of one upload.
pub async fn wait_until_nothing_is_stored_of(app: &TestApp, upload: &str) {
    let id = upload.trim_start_matches("/files/");
    let is_its = |file: &PathBuf| file.to_string_lossy().contains(id);
    until_fits("its file is gone", async || app.stored_files(), |files| !files.iter().any(is_its)).await;
}
