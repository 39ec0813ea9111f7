//! Failovers to a standby, with real servers.

use std::sync::Arc;

use domain::id::InstanceId;
use domain::principal::TenantScope;
use domain::upload::Upload;
use longshore_state_postgres::{DatabaseUrl, PostgresSettings, PostgresStore};
use state::conformance::{at, bodies, change_of, leases, new_upload, receive};
use state::{Error, Leases, Membership, Store, Uploads};

use crate::server::{Server, until};

async fn joined(servers: &[&Server], number: u8) -> (Arc<PostgresStore>, InstanceId) {
    let hosts = servers.iter().map(|server| server.address()).collect::<Vec<_>>().join(",");
    let url = format!("postgres://postgres@{hosts}/postgres");
    let settings = PostgresSettings::new(DatabaseUrl::parse(&url, None).unwrap());
    let store = PostgresStore::open(settings, bodies()).await.unwrap();
    let node = leases::node(number);
    store.join(&node, Membership::Others, None).await.unwrap();
    (store, node.instance)
}

async fn replayed(primary: &Server, standby: &Server) {
    let wanted: String =
        primary.connect().await.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let client = standby.connect().await;
    let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{wanted}'::pg_lsn");
    until("the standby follows", async || client.query_one(&sql, &[]).await.unwrap().get(0)).await;
}

async fn with_lease(store: &PostgresStore, upload: &Upload) -> Upload {
    store.find(TenantScope::All, upload.id()).await.unwrap().unwrap()
}

/// scale-out F10: an asynchronous standby is promoted without the latest commits. scale-out P15: the leases
/// that it knows of are ended, and no epoch is given a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_epoch_is_given_twice_when_commits_are_lost() {
    let primary = Server::started();
    let (first, a) = joined(&[&primary], 1).await;
    let held = first.insert(change_of(new_upload(1))).await.unwrap();
    let free = first.insert(change_of(new_upload(2))).await.unwrap();
    let kept = first.acquire(held.id(), a).await.unwrap().unwrap();
    let mut holding = with_lease(&first, &held).await;
    let standby = primary.standby();
    let both = [&primary, &standby];
    let (second, b) = joined(&both, 2).await;
    replayed(&primary, &standby).await;
    standby.kill();

    // Lost: both uploads change hands, and bytes are acknowledged.
    let mut lost = vec![second.seize(held.id(), kept, b).await.unwrap().unwrap()];
    lost.push(second.acquire(free.id(), b).await.unwrap().unwrap());
    let mut writing = with_lease(&second, &free).await;
    receive(&mut writing, 100, at(1));
    let writing = second.commit(change_of(writing)).await.unwrap();
    first.close().await;
    primary.kill();
    standby.start();
    standby.promote();

    let (third, c) = joined(&both, 3).await;
    // Neither the holder that the standby knows nor the one that it does not know commits anything.
    assert_eq!(with_lease(&third, &held).await.record().lease.holder, None);
    until("the second node has found the new primary", async || second.check().await.is_ok()).await;
    let mut unknown = writing.clone();
    receive(&mut unknown, 100, at(2));
    assert!(matches!(second.commit(change_of(unknown)).await, Err(Error::Conflict(_))));
    receive(&mut holding, 100, at(2));
    assert!(matches!(third.commit(change_of(holding)).await, Err(Error::Conflict(_))));

    let mut given = Vec::new();
    for upload in [&held, &free] {
        let (ours, theirs) = tokio::join!(third.acquire(upload.id(), c), second.acquire(upload.id(), b));
        let (ours, theirs) = (ours.unwrap().unwrap(), theirs.unwrap().unwrap());
        assert_eq!(ours, theirs, "one of them has it");
        given.push(ours);
    }
    for lease in &given {
        assert!(lost.iter().all(|lost| lost.epoch < lease.epoch) && kept.epoch < lease.epoch, "{lost:?} {given:?}");
    }

    // scale-out F11: the former primary is back, with its old data, and is listed first.
    primary.start();
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
    standby.connect().await.query(cut, &[]).await.unwrap();
    second.check().await.unwrap();
    let mut writing = with_lease(&second, &free).await;
    receive(&mut writing, 50, at(3));
    second.commit(change_of(writing)).await.unwrap();
    primary.kill();

    // A later start on the same timeline changes nothing.
    let (fourth, _) = joined(&both, 4).await;
    for (upload, lease) in [&held, &free].into_iter().zip(given) {
        assert_eq!(with_lease(&fourth, upload).await.record().lease, lease);
    }
}
