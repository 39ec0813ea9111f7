//! The shortest path through all features.

use crate::support::app::TestApp;
use crate::support::receiver::Receiver;

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_received_announced_and_given_back() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint("['*']"), |_| {}).await;
    let mut client = app.client().await;
    let upload = client.create(11).await;
    assert_eq!(client.patch(&upload, 0, b"hello ").await.header("upload-offset"), Some("6"));
    assert_eq!(client.offset(&upload).await, 6);
    assert_eq!(client.patch(&upload, 6, b"world").await.header("upload-offset"), Some("11"));
    assert_eq!(client.get(&upload).await.body, b"hello world");
    let status = client.status(&upload).await;
    assert_eq!(status["stage"], "completed");
    assert_eq!(status["digests"]["crc32c"], "c99465aa");
    let heard = receiver.wait_for_kind("upload.completed").await;
    let kinds: Vec<_> = heard.iter().map(|delivery| delivery.kind()).collect();
    assert_eq!(
        kinds,
        [
            "upload.created",
            "upload.receiving",
            "upload.received",
            "upload.verified",
            "upload.stored",
            "upload.completed"
        ]
    );
    assert!(heard.iter().map(|delivery| delivery.sequence()).eq(1..=6));
}
