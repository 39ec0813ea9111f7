//! Servers that are not there yet, and servers that stop responding.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::principal::TenantScope;
use longshore_state_postgres::{PostgresSettings, PostgresStore};
use state::conformance::{at, bodies, change_of, new_upload, receive};
use state::{Error, Leases, Store, Uploads};

use crate::server::Server;

/// A start waits for a server that refuses connections, and then for its promotion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_a_server_that_is_not_there_yet() {
    let primary = Server::started();
    let standby = primary.standby();
    standby.kill();
    let settings = PostgresSettings { start_timeout: Duration::from_secs(120), ..standby.settings() };
    let opening = tokio::spawn(PostgresStore::open(settings.clone(), bodies()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!opening.is_finished(), "it waits for a connection");
    standby.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!opening.is_finished(), "it waits for the promotion");
    standby.promote();
    opening.await.unwrap().unwrap().check().await.unwrap();
}

/// Without the time to wait, the reason is reported at once.
#[tokio::test]
async fn a_start_without_patience_says_why_it_fails() {
    let server = Server::new();
    let settings = PostgresSettings { start_timeout: Duration::ZERO, ..server.settings() };
    let refused = PostgresStore::open(settings, bodies()).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
}

/// A frozen server holds no caller longer than the limit of a statement and fifteen seconds. Once it runs
/// again, everything continues.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_holds_no_caller_for_long() {
    let server = Server::started();
    let settings = PostgresSettings { read_connections: 1, transaction_connections: 1, ..server.settings() };
    let store = PostgresStore::open(settings, bodies()).await.unwrap();
    let upload = store.insert(change_of(new_upload(1))).await.unwrap();
    store.nodes().await.unwrap();
    server.signal("-STOP");
    let began = Instant::now();
    // More callers than sessions, of every kind.
    let (mut reads, mut writes, mut commits) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..4 {
        let reading = Arc::clone(&store);
        let id = upload.id();
        reads.push(tokio::spawn(async move { reading.find(TenantScope::All, id).await.map(drop) }));
        let writing = Arc::clone(&store);
        writes.push(tokio::spawn(async move { writing.drain(state::conformance::own()).await.map(drop) }));
        let (committing, mut upload) = (Arc::clone(&store), upload.clone());
        receive(&mut upload, 1, at(1));
        commits.push(tokio::spawn(async move {
            match number {
                0 => committing.commit(change_of(upload)).await.map(drop),
                other => committing.insert(change_of(new_upload(other))).await.map(drop),
            }
        }));
    }
    for read in reads {
        let failed = read.await.unwrap();
        assert!(matches!(failed, Err(Error::Unreachable { .. })), "{failed:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(5 + 15 + 10), "{:?} for a read", began.elapsed());
    for write in writes.into_iter().chain(commits) {
        let failed = write.await.unwrap();
        assert!(matches!(failed, Err(Error::Unreachable { .. } | Error::Unanswered { .. })), "{failed:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(15 + 15 + 10), "{:?} for a write", began.elapsed());
    server.signal("-CONT");
    store.check().await.unwrap();
    assert!(store.find(TenantScope::All, upload.id()).await.unwrap().is_some());
}
