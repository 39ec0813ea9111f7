//! A client that behaves like URLSession: it sends everything at once and learns the location of its upload
//! from the 104. When the connection breaks it requests the offset there and sends the rest; without a 104 it
//! fails.

use crate::ietf::{PARTIAL, end_in, location, version};
use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::seeded::Seeded;
use crate::tus::wait_for_status;

/// The state that one phone keeps of its upload.
struct Phone<'a> {
    app: &'a TestApp,
    number: &'static str,
    file: Vec<u8>,
    upload: Option<String>,
}

impl Phone<'_> {
    /// Sends the file, and disconnects after `cut` bytes if that is before its end.
    async fn post(&mut self, cut: usize) -> Option<Answer> {
        let mut client = self.app.client().await;
        let length = self.file.len().to_string();
        let headers = [
            version(self.number),
            end_in(self.number, true),
            ("Content-Length", &length),
            ("Content-Type", "video/mp4"),
        ];
        client.send_head("POST", "/files", &headers).await;
        let told = client.next_interim().await;
        assert_eq!(told.status, 104, "ietf 21: {}", self.number);
        assert_eq!(told.header("upload-draft-interop-version"), Some(self.number), "ietf 1: or it does not resume");
        self.upload = Some(location(&told));
        self.send_rest(client, 0, cut, "POST").await
    }

    /// Requests the offset of its upload, and sends the rest.
    async fn resume(&self, cut: usize) -> Option<Answer> {
        let upload = self.upload.as_ref().expect("it has the URL");
        let mut client = self.app.client().await;
        let found = client.request("HEAD", upload, &[version(self.number)], b"").await;
        assert_eq!(found.status, 204, "ietf 40: {}", self.number);
        let (name, value) = end_in(self.number, false);
        assert_eq!(found.header(&name.to_ascii_lowercase()), Some(value), "ietf 40: {}", self.number);
        let at: usize = found.header("upload-offset").expect("ietf 40").parse().unwrap();
        let (offset, length) = (at.to_string(), (self.file.len() - at).to_string());
        let headers = [
            version(self.number),
            end_in(self.number, true),
            ("Upload-Offset", &offset),
            ("Content-Length", &length),
            PARTIAL,
        ];
        // Versions before 6 have no media type.
        let headers = if matches!(self.number, "3" | "5") { &headers[..4] } else { &headers };
        client.send_head("PATCH", upload, headers).await;
        self.send_rest(client, at, cut, "PATCH").await
    }

    async fn send_rest(&self, mut client: Client, at: usize, cut: usize, method: &str) -> Option<Answer> {
        let end = cut.clamp(at, self.file.len());
        for piece in self.file[at..end].chunks(10_000) {
            client.send(piece).await;
        }
        if end == self.file.len() {
            return Some(client.answer(method).await);
        }
        let mut asking = self.app.client().await;
        let upload = self.upload.as_ref().expect("it has the URL");
        wait_for_status(&mut asking, upload, |status| status["received"] == end).await;
        if at.is_multiple_of(2) {
            client.rst()
        } else {
            client.fin().await
        }
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_of_every_age_finish_their_uploads() {
    let app = TestApp::start().await;
    for number in ["3", "5", "6", "8"] {
        let file = Seeded::new(42).bytes(300_001);
        let mut phone = Phone { app: &app, number, file, upload: None };
        assert!(phone.post(100_001).await.is_none());
        assert!(phone.resume(100_001).await.is_none(), "it breaks again at once");
        assert!(phone.resume(250_000).await.is_none(), "and later");
        let answer = phone.resume(usize::MAX).await.unwrap();
        let (name, value) = end_in(number, true);
        assert_eq!(answer.status, 201, "ietf 48: as if it had never broken: {number}");
        assert_eq!(answer.header(&name.to_ascii_lowercase()), Some(value), "ietf 48: {number}");
        let upload = phone.upload.as_ref().unwrap();
        let got = app.client().await.get(upload).await;
        assert!(got.body == phone.file, "ietf 58: {number}");
        assert_eq!(got.header("content-type"), Some("video/mp4"), "ietf 36");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_whose_connection_holds_needs_nothing_else() {
    let app = TestApp::start().await;
    for number in ["3", "5", "6", "8"] {
        let mut phone = Phone { app: &app, number, file: vec![7; 70_000], upload: None };
        let answer = phone.post(usize::MAX).await.unwrap();
        assert_eq!(Some(location(&answer)), phone.upload, "ietf 27: {number}");
    }
}
