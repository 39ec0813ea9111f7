//! Blocking hooks of a whole server: an application that accepts, rejects, or answers nothing of use.

use serde_json::Value;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS, TUS};
use crate::support::scripted::{Reply, Request, Scripted};

mod creation;
mod finishing;
mod lives;
mod terminating;
mod trouble;

pub const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// The bytes that every test uploads, in every dialect.
pub const BYTES: &[u8] = b"hello";

/// Returns a configuration file that calls the application for `hooks`, with further lines of its section.
pub fn asking(application: &Scripted, hooks: &[&str], more: &str) -> String {
    asking_at(&application.address.to_string(), hooks, more)
}

pub fn asking_at(address: &str, hooks: &[&str], more: &str) -> String {
    let urls: String = hooks.iter().map(|hook| format!("{hook} = \"http://{address}/hook\"\n")).collect();
    format!("[hooks]\nsecret = \"{SECRET}\"\n{urls}{more}\n")
}

/// Starts an application, and a server that calls its hooks.
pub async fn pair(hooks: &[&str], more: &str) -> (Scripted, TestApp) {
    let application = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&asking(&application, hooks, more), |_| {}).await;
    (application, app)
}

pub fn json(status: &'static str, text: &str) -> Reply {
    Reply::Body(status, text.as_bytes().to_vec())
}

/// Returns the data of the hook's request.
pub fn data(request: &Request) -> &Value {
    &request.json["data"]
}

/// One way to create an upload.
pub struct Way {
    pub name: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    pub headers: Vec<(&'static str, &'static str)>,
    pub body: Vec<u8>,
    /// The request that sends the remaining bytes, if the creation sends none.
    pub rest: Rest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Nothing,
    Tus,
    Ietf,
    Put,
}

pub const END: (&str, &str) = ("Upload-Complete", "?1");
pub const MORE: (&str, &str) = ("Upload-Complete", "?0");

/// Returns every way to upload five bytes.
pub fn ways() -> Vec<Way> {
    let way =
        |name, method, path, headers, body: &[u8], rest| Way { name, method, path, headers, body: body.to_vec(), rest };
    let form = b"------x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\nhello\r\n------x--\r\n";
    let length = ("Upload-Length", "5");
    vec![
        way("tus", "POST", "/files", vec![TUS, length], b"", Rest::Tus),
        way("tus with data", "POST", "/files", vec![TUS, length, OCTETS], BYTES, Rest::Nothing),
        way("tus, length told last", "POST", "/files", vec![TUS, ("Upload-Defer-Length", "1")], b"", Rest::Tus),
        way("ietf", "POST", "/files", vec![MORE, length], b"", Rest::Ietf),
        way("ietf in one request", "POST", "/files", vec![END], BYTES, Rest::Nothing),
        way("google", "POST", "/files?uploadType=resumable", vec![], b"", Rest::Put),
        way("ranges", "POST", "/files", vec![("Content-Type", "application/json")], b"{\"size\": 5}", Rest::Put),
        way("plain", "PUT", "/files/a.bin", vec![], BYTES, Rest::Nothing),
        way(
            "form",
            "POST",
            "/files",
            vec![("Content-Type", "multipart/form-data; boundary=----x")],
            form,
            Rest::Nothing,
        ),
    ]
}

impl Way {
    pub async fn create(&self, client: &mut Client) -> Answer {
        client.request(self.method, self.path, &self.headers, &self.body).await
    }

    /// Sends the bytes that the creation did not. Returns the last response, and the path of the upload.
    pub async fn upload(&self, client: &mut Client, application: &Scripted) -> (Answer, String) {
        let created = self.create(client).await;
        let path = match created.header("location") {
            Some(location) => location[location.find("/files/").expect("an upload")..].to_owned(),
            // A rejection does not contain the path; the request of the hook did.
            None => {
                let asked = application.heard();
                format!("/files/{}", data(asked.last().expect("it was asked"))["upload_id"].as_str().unwrap())
            }
        };
        let answer = match self.rest {
            Rest::Nothing => created,
            _ => {
                assert!(created.status < 300, "{}: {created:?}", self.name);
                self.bring(client, &path).await
            }
        };
        (answer, path)
    }

    /// Sends the request with all of the bytes.
    pub async fn bring(&self, client: &mut Client, path: &str) -> Answer {
        match self.rest {
            Rest::Tus | Rest::Nothing => {
                let length = ("Upload-Length", "5");
                client.tus("PATCH", path, &[OCTETS, ("Upload-Offset", "0"), length], BYTES).await
            }
            Rest::Ietf => {
                let partial = ("Content-Type", "application/partial-upload");
                client.request("PATCH", path, &[partial, ("Upload-Offset", "0"), END], BYTES).await
            }
            Rest::Put => client.request("PUT", path, &[("Content-Range", "bytes 0-4/5")], BYTES).await,
        }
    }

    /// The headers that mark a request as one of this dialect.
    pub fn marks(&self) -> &'static [(&'static str, &'static str)] {
        if self.name.starts_with("tus") { &[TUS] } else { &[] }
    }
}

/// Asserts that a response is the application's rejection.
pub fn is_refused(answer: &Answer, status: u16, message: &str, why: &str) {
    assert_eq!(answer.status, status, "{why}: {answer:?}");
    assert_eq!(answer.problem(), "rejected-by-application", "{why}");
    assert_eq!(answer.json()["detail"], message, "{why}");
}

/// Asserts that a response makes its client retry later, and discloses nothing.
pub fn is_put_off(answer: &Answer, why: &str) {
    assert_eq!(answer.status, 503, "{why}: {answer:?}");
    assert_eq!(answer.problem(), "application-unavailable", "{why}");
    let shown = String::from_utf8_lossy(&answer.body);
    assert!(!shown.contains("hook") && !shown.contains("127.0.0.1"), "{why}: {shown}");
}

/// Returns the recorded hook calls, newest first.
pub async fn calls(client: &mut Client, query: &str) -> Vec<Value> {
    let answer = client.get(&format!("/api/v1/webhooks/hooks{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["calls"].as_array().unwrap().clone()
}

pub async fn uploads(client: &mut Client) -> Vec<Value> {
    client.get("/api/v1/uploads").await.json()["uploads"].as_array().unwrap().clone()
}
