//! x
use crate::support::app::TestApp;
use crate::support::moving::wait_until_taken;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn probe_stop() {
    let mut app = TestApp::start().await;
    let path = app.client().await.create(1000).await;
    let mut client = app.client().await;
    client.begin_patch(&path, 0, 1000).await;
    client.send(b"hello").await;
    wait_until_taken(app.address(), &path, 5).await;
    let began = Instant::now();
    let stopping = tokio::spawn(async move { let s = app.stop().await; println!("stopped {s:?} {:?}", began.elapsed()); });
    let answer = client.answer("PATCH", &path).await;
    println!("{:?} {answer:?}", began.elapsed());
    let eof = client.read_until(b"zzzzz").await;
    println!("{:?} eof {eof:?}", began.elapsed());
    stopping.await.unwrap();
}
