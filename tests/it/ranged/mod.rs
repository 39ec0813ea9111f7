//! Ranged PUT, item by item: Google's sessions, ranges in any order, whole files. The numbers are those of
//! `docs/requirements/ranged.md`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};

mod bad_input;
mod crossing;
mod digests;
mod finish;
mod forms;
mod parallel;
mod plain;
mod session;
mod transfer;

pub const JSON: (&str, &str) = ("Content-Type", "application/json");
pub const START: &str = "/files?uploadType=resumable";

/// Starts a Google session and returns the path of its upload.
pub async fn session(client: &mut Client, headers: &[(&str, &str)]) -> String {
    let answer = client.request("POST", START, headers, b"").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    path_of(&answer)
}

/// Starts one of our own sessions for this many bytes and returns the path of its upload.
pub async fn ranges(client: &mut Client, length: usize) -> String {
    let answer = client.request("POST", "/files", &[JSON], format!("{{\"size\": {length}}}").as_bytes()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    path_of(&answer)
}

/// Returns the path in the `Location` of a response.
pub fn path_of(answer: &Answer) -> String {
    let location = answer.header("location").unwrap_or_else(|| panic!("it says where: {answer:?}"));
    location[location.find("/files/").expect("an upload")..].to_owned()
}

/// Sends a PUT with this `Content-Range`; headers that Google's responses may lack are not checked.
pub async fn put(client: &mut Client, path: &str, range: &str, body: &[u8]) -> Answer {
    put_with(client, path, &[("Content-Range", range)], body).await
}

pub async fn put_with(client: &mut Client, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    sent(client, "PUT", path, headers, body).await
}

/// Sends a request whose rejection may have Google's form: plain text, or no body.
pub async fn sent(client: &mut Client, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let length = body.len().to_string();
    let mut all = headers.to_vec();
    all.push(("Content-Length", &length));
    client.send_head(method, path, &all).await;
    client.send(body).await;
    let answer = client.raw_answer(method).await.expect("an answer");
    assert_eq!(answer.header("tus-resumable"), None, "no fields of tus: {answer:?}");
    if answer.header("connection") == Some("close") {
        *client = Client::connect(client.address).await;
    }
    answer
}

/// Sends a whole chunked body.
pub async fn put_chunked(client: &mut Client, path: &str, headers: &[(&str, &str)], pieces: &[&[u8]]) -> Answer {
    let mut all = headers.to_vec();
    all.push(("Transfer-Encoding", "chunked"));
    client.send_head("PUT", path, &all).await;
    for piece in pieces {
        client.send_chunk(piece).await;
    }
    client.send_chunk(b"").await;
    let answer = client.raw_answer("PUT").await.expect("an answer");
    if answer.header("connection") == Some("close") {
        *client = Client::connect(client.address).await;
    }
    answer
}

/// Asserts that the response is a 308 that reports this many bytes and does not redirect.
pub fn is_incomplete(answer: &Answer, offset: usize, why: &str) {
    assert_eq!((answer.status, answer.reason.as_str()), (308, "Resume Incomplete"), "{why}: {answer:?}");
    let range = offset.checked_sub(1).map(|last| format!("bytes=0-{last}"));
    assert_eq!(answer.header("range"), range.as_deref(), "ranged 9: {why}");
    assert_eq!(answer.header("location"), None, "ranged 11: clients would follow it");
    assert!(answer.body.is_empty(), "ranged 8: {answer:?}");
}

/// Asserts that the response is the object that Google's clients expect, with these bytes.
pub fn is_object(answer: &Answer, bytes: &[u8], why: &str) -> Value {
    assert_eq!(answer.status, 200, "ranged 13: {why}: {answer:?}");
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/json"), "ranged 14: {kind}");
    let object = answer.json();
    assert_eq!(object["size"], bytes.len().to_string(), "ranged 14: a text");
    assert_eq!(object["crc32c"], crc32c_of(bytes), "ranged 14: {why}");
    assert_eq!(object["md5Hash"], md5_of(bytes), "ranged 14: {why}");
    object
}

pub fn crc32c_of(bytes: &[u8]) -> String {
    STANDARD.encode(crc32c::crc32c(bytes).to_be_bytes())
}

pub fn md5_of(bytes: &[u8]) -> String {
    use md5::Digest as _;
    STANDARD.encode(md5::Md5::digest(bytes))
}

/// Asserts that the server has exactly these bytes and reports the upload as complete.
pub async fn is_stored(client: &mut Client, path: &str, bytes: &[u8]) {
    let status = client.status(path).await;
    assert_eq!(status["stage"], "completed", "{status}");
    let download = client.get(path).await;
    assert_eq!(download.status, 200);
    assert!(download.body == bytes, "the bytes are the source's");
    let told = (download.header("upload-offset"), download.header("upload-length"));
    let length = bytes.len().to_string();
    assert_eq!(told, (Some(length.as_str()), Some(length.as_str())), "dialects 4");
}

/// Returns this many bytes that are not all equal.
pub fn source(count: usize) -> Vec<u8> {
    (0..count).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap()).collect()
}

/// Returns the number of uploads that the server lists.
pub async fn known(app: &TestApp) -> usize {
    crate::tus::known_uploads(&mut app.client().await).await.len()
}
