//! Resumable Uploads for HTTP, item by item: `ietf 47` is an entry of `docs/requirements/ietf.md`.

use serde_json::Value;

use crate::support::client::{Answer, Client};

mod append;
mod bad_input;
mod cancellation;
mod creation;
mod digests;
mod discovery;
mod interim;
mod phone;
mod property;
mod retrieval;

pub const PARTIAL: (&str, &str) = ("Content-Type", "application/partial-upload");
pub const END: (&str, &str) = ("Upload-Complete", "?1");
pub const MORE: (&str, &str) = ("Upload-Complete", "?0");

/// Every interop version that the default configuration supports.
pub const NUMBERS: [&str; 7] = ["3", "5", "6", "7", "8", "9", "10"];

/// Returns the header that names a version.
pub fn version(number: &str) -> (&str, &str) {
    ("Upload-Draft-Interop-Version", number)
}

/// Returns the header that says, in a version, whether the upload ends.
pub fn end_in(number: &str, end: bool) -> (&'static str, &'static str) {
    match (number, end) {
        ("3", true) => ("Upload-Incomplete", "?0"),
        ("3", false) => ("Upload-Incomplete", "?1"),
        (_, true) => END,
        (_, false) => MORE,
    }
}

/// Sends a creation, and checks the properties that every response of this dialect must have.
pub async fn create(client: &mut Client, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    send(client, "POST", "/files", headers, body).await
}

/// Sends a request, and checks the properties that every response of this dialect must have.
pub async fn send(client: &mut Client, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let answer = client.request(method, path, headers, body).await;
    assert_eq!(answer.header("tus-resumable"), None, "dialects 4: only tus clients get fields of tus: {answer:?}");
    answer
}

/// Creates an upload without data, and returns its path.
pub async fn begin(client: &mut Client, length: Option<u64>) -> String {
    let length = length.map(|length| length.to_string());
    let mut headers = vec![MORE];
    headers.extend(length.as_deref().map(|length| ("Upload-Length", length)));
    let answer = create(client, &headers, b"").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    location(&answer)
}

pub fn location(answer: &Answer) -> String {
    answer.header("location").unwrap_or_else(|| panic!("it says where: {answer:?}")).to_owned()
}

/// Sends an append in the form of the finished RFC.
pub async fn append(client: &mut Client, path: &str, at: usize, end: bool, body: &[u8]) -> Answer {
    let at = at.to_string();
    send(client, "PATCH", path, &[PARTIAL, ("Upload-Offset", &at), end_in("", end)], body).await
}

/// Begins an append with a chunked body.
pub async fn begin_chunked(client: &mut Client, path: &str, headers: &[(&str, &str)]) {
    let mut all = vec![PARTIAL, ("Transfer-Encoding", "chunked")];
    all.extend_from_slice(headers);
    client.send_head("PATCH", path, &all).await;
}

/// Returns the offset, and whether the upload is complete.
pub async fn offset(client: &mut Client, path: &str) -> (usize, bool) {
    let answer = send(client, "HEAD", path, &[version("8")], b"").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let complete = match answer.header("upload-complete") {
        Some("?1") => true,
        Some("?0") => false,
        _ => panic!("ietf 40: {answer:?}"),
    };
    (answer.header("upload-offset").expect("ietf 40").parse().unwrap(), complete)
}

/// Returns one number of `Upload-Limit`.
pub fn limit(answer: &Answer, name: &str) -> Option<u64> {
    let limit = answer.header("upload-limit").unwrap_or_else(|| panic!("it tells the limit: {answer:?}"));
    let members = limit.split(", ").map(|member| member.split_once('=').expect("ietf 6: a dictionary of numbers"));
    let found: Vec<u64> =
        members.filter(|(known, _)| *known == name).map(|(_, value)| value.parse().unwrap()).collect();
    assert!(found.len() <= 1, "{limit}");
    found.first().copied()
}

/// Returns the bytes of a completed upload.
pub async fn download(client: &mut Client, path: &str) -> Vec<u8> {
    let answer = client.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Returns the number of uploads of this dialect.
pub async fn count(client: &mut Client) -> usize {
    let answer = client.get("/api/v1/uploads").await.json();
    let uploads = answer["uploads"].as_array().unwrap().iter();
    uploads.filter(|upload: &&Value| upload["protocol"] == "ietf").count()
}

/// Returns the full type of a problem.
pub fn kind(answer: &Answer) -> String {
    answer.json()["type"].as_str().unwrap().to_owned()
}

pub const MISMATCHING_OFFSET: &str = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
pub const COMPLETED: &str = "https://iana.org/assignments/http-problem-types#completed-upload";
pub const INCONSISTENT_LENGTH: &str = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";
