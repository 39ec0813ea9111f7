//! Complete responses of the main exchanges, with their ids, times and digests redacted.

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS, TUS};

/// The requests and the complete responses, with sorted headers.
struct Transcript {
    client: Client,
    text: String,
    upload: String,
}

impl Transcript {
    async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let path = if path.is_empty() { self.upload.clone() } else { path.to_owned() };
        let answer = self.client.request(method, &path, headers, body).await;
        if let Some(location) = answer.header("location") {
            self.upload = location.to_owned();
        }
        let asked = format!("{method} {path}\n");
        self.text.push_str(&self.redacted(&asked));
        self.text.push_str(&self.redacted(&shown(&answer)));
    }

    fn redacted(&self, text: &str) -> String {
        let id = self.upload.trim_start_matches("/files/");
        if id.is_empty() { text.to_owned() } else { text.replace(id, "<id>") }
    }
}

fn shown(answer: &Answer) -> String {
    let mut lines: Vec<String> = answer
        .headers
        .iter()
        .map(|(name, value)| match name.as_str() {
            "date" | "last-modified" | "upload-expires" => format!("{name}: <time>"),
            "x-request-id" => format!("{name}: <request>"),
            _ => format!("{name}: {value}"),
        })
        .collect();
    lines.sort();
    let mut body = String::from_utf8(answer.body.clone()).unwrap();
    if let Some(request) = answer.header("x-request-id") {
        body = body.replace(request, "<request>");
    }
    if !body.is_empty() {
        body = format!("\n{body}\n");
    }
    format!("{} {}\n{}\n{body}----\n", answer.status, answer.reason, lines.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_exchanges_read_as_they_should() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 1_000_000).await;
    let client = app.client().await;
    let mut talk = Transcript { client, text: String::new(), upload: String::new() };
    let metadata = ("Upload-Metadata", "filename aGVsbG8udHh0,filetype dGV4dC9wbGFpbg==");
    let at = |offset| ("Upload-Offset", offset);
    talk.ask("OPTIONS", "/files", &[], b"").await;
    talk.ask("POST", "/files", &[TUS, ("Upload-Length", "11"), metadata], b"").await;
    talk.ask("PATCH", "", &[TUS, OCTETS, at("0")], b"hello ").await;
    talk.ask("HEAD", "", &[TUS], b"").await;
    talk.ask("GET", "", &[], b"").await;
    talk.ask("PATCH", "", &[TUS, OCTETS, at("3")], b"").await;
    talk.ask("PATCH", "", &[TUS, OCTETS, at("6"), ("Upload-Checksum", "crc32 AAAAAA==")], b"world").await;
    talk.ask("PATCH", "", &[TUS, OCTETS, at("6")], b"world").await;
    talk.ask("GET", "", &[("Range", "bytes=6-")], b"").await;
    talk.ask("DELETE", "", &[TUS], b"").await;
    talk.ask("HEAD", "", &[TUS], b"").await;
    talk.ask("GET", "", &[], b"").await;
    talk.ask("POST", "/files", &[("Upload-Length", "11")], b"").await;
    talk.ask("POST", "/files", &[TUS, ("Upload-Length", "1000001")], b"").await;
    assert_eq!(talk.text.trim_end(), EXPECTED.trim(), "the transcript in full:\n{}", talk.text);
}

const EXPECTED: &str = r#"
OPTIONS /files
204 No Content
accept-patch: application/partial-upload, application/offset+octet-stream
date: <time>
tus-checksum-algorithm: sha1,sha256,sha512,md5,crc32,crc32c
tus-extension: creation,creation-with-upload,creation-defer-length,expiration,checksum,termination,concatenation
tus-max-size: 1000000
tus-version: 1.0.0
upload-limit: max-size=1000000, max-age=86400
vary: Origin
x-content-type-options: nosniff
x-request-id: <request>
----
POST /files
201 Created
content-length: 0
date: <time>
location: /files/<id>
tus-resumable: 1.0.0
upload-expires: <time>
upload-offset: 0
vary: Origin
x-content-type-options: nosniff
x-request-id: <request>
----
PATCH /files/<id>
204 No Content
date: <time>
tus-resumable: 1.0.0
upload-expires: <time>
upload-offset: 6
vary: Origin
x-content-type-options: nosniff
x-request-id: <request>
----
HEAD /files/<id>
200 OK
cache-control: no-store
date: <time>
tus-resumable: 1.0.0
upload-expires: <time>
upload-length: 11
upload-metadata: filename aGVsbG8udHh0,filetype dGV4dC9wbGFpbg==
upload-offset: 6
vary: Origin
x-content-type-options: nosniff
x-request-id: <request>
----
GET /files/<id>
409 Conflict
cache-control: no-store
content-length: 191
content-type: application/problem+json
cross-origin-resource-policy: same-site
date: <time>
referrer-policy: no-referrer
tus-resumable: 1.0.0
upload-expires: <time>
upload-length: 11
upload-offset: 6
vary: Origin
x-content-type-options: nosniff
x-frame-options: DENY
x-request-id: <request>

{"type":"urn:longshore:problem:not-complete","title":"Conflict","status":409,"detail":"the upload is not complete: 6 of 11 bytes are received","request_id":"<request>"}
----
PATCH /files/<id>
409 Conflict
cache-control: no-store
content-length: 169
content-type: application/problem+json
cross-origin-resource-policy: same-site
date: <time>
referrer-policy: no-referrer
tus-resumable: 1.0.0
upload-expires: <time>
upload-offset: 6
vary: Origin
x-content-type-options: nosniff
x-frame-options: DENY
x-request-id: <request>

{"type":"urn:longshore:problem:wrong-offset","title":"Conflict","status":409,"detail":"the upload is at offset 6, not 3","request_id":"<request>"}
----
PATCH /files/<id>
460 Checksum Mismatch
cache-control: no-store
content-length: 213
content-type: application/problem+json
cross-origin-resource-policy: same-site
date: <time>
referrer-policy: no-referrer
tus-resumable: 1.0.0
upload-expires: <time>
vary: Origin
x-content-type-options: nosniff
x-frame-options: DENY
x-request-id: <request>

{"type":"urn:longshore:problem:checksum-mismatch","title":"Checksum Mismatch","status":460,"detail":"the data does not match the crc32 digest that was sent with it","request_id":"<request>"}
----
PATCH /files/<id>
204 No Content
date: <time>
tus-resumable: 1.0.0
upload-offset: 11
vary: Origin
x-content-type-options: nosniff
x-request-id: <request>
----
GET /files/<id>
206 Partial Content
accept-ranges: bytes
cache-control: private, no-cache
content-disposition: attachment; filename="hello.txt"
content-length: 5
content-range: bytes 6-10/11
content-security-policy: sandbox; default-src 'none'
content-type: text/plain
cross-origin-resource-policy: same-site
date: <time>
etag: "<id>"
last-modified: <time>
referrer-policy: no-referrer
tus-resumable: 1.0.0
vary: Origin
x-content-type-options: nosniff
x-frame-options: DENY
x-request-id: <request>

world
----
DELETE /files/<id>
204 No Content
date: <time>
tus-resumable: 1.0.0
vary: Origin
x-content-type-options: nosniff
x-request-id: <request>
----
HEAD /files/<id>
410 Gone
cache-control: no-store
content-length: 163
content-type: application/problem+json
cross-origin-resource-policy: same-site
date: <time>
referrer-policy: no-referrer
tus-resumable: 1.0.0
vary: Origin
x-content-type-options: nosniff
x-frame-options: DENY
x-request-id: <request>
----
GET /files/<id>
410 Gone
cache-control: no-store
content-length: 163
content-type: application/problem+json
cross-origin-resource-policy: same-site
date: <time>
referrer-policy: no-referrer
tus-resumable: 1.0.0
vary: Origin
x-content-type-options: nosniff
x-frame-options: DENY
x-request-id: <request>

{"type":"urn:longshore:problem:upload-gone","title":"Gone","status":410,"detail":"this upload has been terminated","request_id":"<request>"}
----
POST /files
412 Precondition Failed
cache-control: no-store
content-length: 219
content-type: application/problem+json
cross-origin-resource-policy: same-site
date: <time>
referrer-policy: no-referrer
tus-resumable: 1.0.0
tus-version: 1.0.0
vary: Origin
x-content-type-options: nosniff
x-frame-options: DENY
x-request-id: <request>

{"type":"urn:longshore:problem:unsupported-version","title":"Precondition Failed","status":412,"detail":"this server supports tus 1.0.0, but the request names no version","request_id":"<request>"}
----
POST /files
413 Payload Too Large
cache-control: no-store
content-length: 199
content-type: application/problem+json
cross-origin-resource-policy: same-site
date: <time>
referrer-policy: no-referrer
tus-resumable: 1.0.0
vary: Origin
x-content-type-options: nosniff
x-frame-options: DENY
x-request-id: <request>

{"type":"urn:longshore:problem:over-limit","title":"Payload Too Large","status":413,"detail":"an upload may have at most 1000000 bytes on this server","request_id":"<request>"}
----
"#;
