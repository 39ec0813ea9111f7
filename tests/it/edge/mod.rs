//! Properties that every HTTP client may rely on, in whichever dialect an upload was created.

use crate::support::client::{Client, OCTETS, TUS};
use crate::{ietf, ranged};

mod deletion;
mod download_head;
mod empty_end;
mod http10;
mod location;
mod missing;
mod pages;
mod paths;
mod types;

/// The dialects an upload can be created in.
pub const PROTOCOLS: [&str; 4] = ["tus", "ietf", "google", "ranged"];

/// Creates an upload of ten bytes in a dialect and returns its path.
pub async fn begun(client: &mut Client, protocol: &str) -> String {
    match protocol {
        "tus" => client.create(10).await,
        "ietf" => ietf::begin(client, Some(10)).await,
        "google" => ranged::session(client, &[("X-Upload-Content-Length", "10")]).await,
        _ => ranged::ranges(client, 10).await,
    }
}

/// Sends ten bytes to an upload in its dialect.
pub async fn fill(client: &mut Client, protocol: &str, path: &str) {
    let bytes = b"0123456789";
    let status = match protocol {
        "tus" => client.patch(path, 0, bytes).await.status,
        "ietf" => ietf::append(client, path, 0, true, bytes).await.status,
        _ => ranged::put(client, path, "bytes 0-9/10", bytes).await.status,
    };
    assert!((200..300).contains(&status), "{protocol}: {status}");
}

/// Begins to send ten bytes to an upload in its dialect, and stops after four. Returns the method.
pub async fn begin_to_fill(client: &mut Client, protocol: &str, path: &str) -> &'static str {
    let length = ("Content-Length", "10");
    let at = ("Upload-Offset", "0");
    let (method, headers) = match protocol {
        "tus" => ("PATCH", vec![TUS, OCTETS, at, length]),
        "ietf" => ("PATCH", vec![ietf::PARTIAL, ietf::END, at, length]),
        _ => ("PUT", vec![("Content-Range", "bytes 0-9/10"), length]),
    };
    client.send_head(method, path, &headers).await;
    client.send(b"0123").await;
    method
}
