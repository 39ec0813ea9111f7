//! Shared by tests of uploads in progress: they observe the offset, and check that it never falls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::client::Client;
use crate::support::patience::until;

/// Waits until the status of an upload is as `wanted`.
pub async fn wait_for_status(address: SocketAddr, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut client = Client::connect(address).await;
    until(&format!("{path} {what}"), async || Some(client.status(path).await).filter(&wanted)).await
}

/// Waits until an append is running.
pub async fn wait_until_live(address: SocketAddr, path: &str) {
    wait_for_status(address, path, "is live", |status| !status["bytes_per_second"].is_null()).await;
}

/// Waits until no append is running.
pub async fn wait_until_at_rest(address: SocketAddr, path: &str) {
    wait_for_status(address, path, "is at rest", |status| status["bytes_per_second"].is_null()).await;
}

/// Waits until the server has received this many bytes, committed or not.
pub async fn wait_until_taken(address: SocketAddr, path: &str, bytes: u64) {
    wait_for_status(address, path, &format!("has taken {bytes} bytes"), |status| status["received"] == bytes).await;
}

/// Waits until this many bytes are committed.
pub async fn wait_until_committed(address: SocketAddr, path: &str, bytes: u64) {
    wait_for_status(address, path, &format!("has committed {bytes} bytes"), |status| status["offset"] == bytes).await;
}

/// Waits until an upload is in a stage.
pub async fn wait_for_stage(address: SocketAddr, path: &str, stage: &str) -> Value {
    wait_for_status(address, path, &format!("is {stage}"), |status| status["stage"] == stage).await
}

/// Resumes from the offset that the server reports, as a client that has lost its connection does. Returns
/// that offset.
pub async fn resume(address: SocketAddr, path: &str, source: &[u8]) -> u64 {
    let mut client = Client::connect(address).await;
    let told = client.offset(path).await;
    let rest = &source[usize::try_from(told).unwrap()..];
    let answer = client.patch(path, told, rest).await;
    assert_eq!(answer.status, 204, "the offset told by HEAD is accepted: {answer:?}");
    assert_eq!(answer.header("upload-offset"), Some(source.len().to_string().as_str()));
    told
}

/// Asserts that an upload is complete and has exactly these bytes.
pub async fn is_whole(address: SocketAddr, path: &str, source: &[u8]) {
    let mut client = Client::connect(address).await;
    let status = client.status(path).await;
    assert_eq!(status["stage"], "completed", "{status}");
    assert_eq!(status["digests"]["crc32c"], format!("{:08x}", crc32c::crc32c(source)));
    assert!(client.get(path).await.body == source, "the bytes are the source's");
}

/// Requests the offset repeatedly until it is stopped, and panics if the offset ever falls.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<u64>,
}

impl Watcher {
    pub fn start(address: SocketAddr, path: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (path, stopped) = (path.to_owned(), Arc::clone(&stop));
        let watching = tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            let mut highest = 0;
            while !stopped.load(Ordering::Relaxed) {
                let status = client.status(&path).await;
                let (offset, received) = (status["offset"].as_u64().unwrap(), status["received"].as_u64().unwrap());
                assert!(offset >= highest, "the offset went back from {highest} to {offset}");
                assert!(received >= offset, "fewer bytes taken than committed: {status}");
                highest = offset;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            highest
        });
        Self { stop, watching }
    }

    /// Returns the highest offset seen.
    pub async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.await.expect("the offset never went back")
    }
}
