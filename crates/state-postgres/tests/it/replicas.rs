//! Reads from real replicas, which the tests pause, kill and promote (scale-out P16).

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use domain::id::UploadId;
use domain::position::CommitPosition;
use domain::principal::TenantScope;
use domain::query::UploadQuery;
use domain::removal::DeletedBy;
use domain::stage::Stage;
use domain::upload::Upload;
use longshore_state_postgres::{DatabaseUrl, PostgresSettings, PostgresStore, ReplicaSettings};
use state::conformance::{at, bodies, change_of, complete, new_upload, receive};
use state::{Error, KnownState, Reads, Store, Uploads};
use tokio_postgres::Client;

use crate::server::{Server, until};

/// A primary with a replica that follows it.
struct Pair {
    primary: Server,
    replica: Server,
    /// A session with the replica outside of any store.
    at_replica: Client,
}

impl Pair {
    async fn started() -> Self {
        let primary = Server::started();
        PostgresStore::open(primary.settings(), bodies()).await.unwrap().close().await;
        let replica = primary.standby();
        let at_replica = replica.connect().await;
        Self { primary, replica, at_replica }
    }

    /// Opens a store that reads from the replica, whatever its lag.
    async fn open(&self) -> Arc<PostgresStore> {
        let settings = self.settings(ReplicaSettings { max_lag: Duration::from_hours(1), ..self.replicas() });
        let store = PostgresStore::open(settings, bodies()).await.unwrap();
        followed(&store).await;
        store
    }

    fn settings(&self, replicas: ReplicaSettings) -> PostgresSettings {
        PostgresSettings { replicas, ..self.primary.settings() }
    }

    fn replicas(&self) -> ReplicaSettings {
        replicas_at(&self.replica.url())
    }

    async fn pause(&self) {
        self.at_replica.query_one("SELECT pg_wal_replay_pause()", &[]).await.unwrap();
        let state = "SELECT pg_get_wal_replay_pause_state() = 'paused'";
        until("the replica pauses", async || self.at_replica.query_one(state, &[]).await.unwrap().get(0)).await;
    }

    async fn resume(&self) {
        self.at_replica.query_one("SELECT pg_wal_replay_resume()", &[]).await.unwrap();
    }
}

fn replicas_at(url: &str) -> ReplicaSettings {
    ReplicaSettings { addresses: vec![DatabaseUrl::parse(url, None).unwrap()], ..ReplicaSettings::default() }
}

async fn followed(store: &PostgresStore) {
    until("the replica is read from", async || store.replicas().iter().all(|replica| replica.is_used)).await;
}

fn known(position: Option<CommitPosition>) -> KnownState {
    KnownState { position, version: None }
}

async fn listed(store: &PostgresStore, position: Option<CommitPosition>) -> Vec<(UploadId, Stage)> {
    let query = UploadQuery { limit: 100, ..UploadQuery::default() };
    let page = store.recent_uploads(TenantScope::All, &query, known(position)).await.unwrap();
    page.found.iter().map(|upload| (upload.id(), upload.stage())).collect()
}

async fn found(store: &PostgresStore, id: UploadId, known: KnownState) -> Upload {
    store.recent_upload(TenantScope::All, id, known).await.unwrap().unwrap()
}

/// scale-out F12: the replica is paused, and every client still finds what it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_is_older_than_its_client_knows() {
    let pair = Pair::started().await;
    let (writer, reader) = (pair.open().await, pair.open().await);
    let live = writer.insert(change_of(new_upload(1))).await.unwrap();
    let mut done = writer.insert(change_of(new_upload(2))).await.unwrap();
    complete(&mut done, at(1));
    let mut done = writer.commit(change_of(done)).await.unwrap();
    let before = writer.current_position().await;
    assert!(before.is_some());
    until("the replica has both", async || {
        let read = reader.read_counts().replica;
        listed(&reader, before).await.len() == 2 && reader.read_counts().replica > read
    })
    .await;
    pair.pause().await;
    let stranger = pair.open().await;

    // Create.
    let new = writer.insert(change_of(new_upload(3))).await.unwrap();
    let created = writer.current_position().await;
    assert_eq!(found(&reader, new.id(), known(None)).await.id(), new.id(), "only the primary says that there is none");
    assert_eq!(listed(&reader, created).await.len(), 3);
    assert_eq!(listed(&writer, None).await.len(), 3, "a node finds what it has written itself");
    assert_eq!(listed(&reader, None).await.len(), 3, "and what it has answered before");
    assert_eq!(listed(&stranger, None).await.len(), 2, "the replica is really behind");
    assert_eq!(stranger.read_counts().replica, 1);

    // Append.
    let mut appended = live.clone();
    receive(&mut appended, 500, at(2));
    let appended = writer.commit(change_of(appended)).await.unwrap();
    let version = appended.record().version;
    let patched = writer.current_position().await;
    for (store, known) in [
        (&stranger, known(None)),
        (&stranger, known(patched)),
        (&stranger, KnownState { position: None, version: Some(version) }),
        (&reader, KnownState { position: None, version: Some(version - 1) }),
        (&writer, KnownState { position: None, version: Some(version - 1) }),
    ] {
        assert_eq!(found(store, live.id(), known).await.offset().get(), 500, "{known:?}");
    }

    // Delete, both an upload in progress and a complete one.
    let mut ended = appended;
    ended.terminate(DeletedBy::Client, at(3)).unwrap();
    writer.commit(change_of(ended)).await.unwrap();
    done.delete_for_operator(at(3)).unwrap();
    writer.commit(change_of(done.clone())).await.unwrap();
    let deleted = writer.current_position().await;
    let stranger = pair.open().await;
    assert!(matches!(found(&stranger, live.id(), known(None)).await.stage(), Stage::Ended(_)));
    assert!(found(&stranger, done.id(), known(deleted)).await.record().removed.is_some());
    let stranger = pair.open().await;
    let stage = |list: &[(UploadId, Stage)]| list.iter().find(|(id, _)| *id == live.id()).map(|(_, stage)| *stage);
    assert!(matches!(stage(&listed(&stranger, deleted).await), Some(Stage::Ended(_))));
    assert_eq!(stranger.read_counts().replica, 0);
    assert!(matches!(stage(&listed(&writer, None).await), Some(Stage::Ended(_))));

    // The replica goes on, and answers everything.
    pair.resume().await;
    until("the replica answers again", async || {
        let read = stranger.read_counts();
        let list = listed(&stranger, deleted).await;
        let removed = found(&stranger, done.id(), known(deleted)).await.record().removed.is_some();
        let gone = found(&stranger, live.id(), known(deleted)).await;
        assert!(list.len() == 3 && removed && matches!(gone.stage(), Stage::Ended(_)));
        stranger.read_counts().replica == read.replica + 3
    })
    .await;
}

/// A position of another timeline is not compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_of_another_timeline_is_answered_by_the_primary() {
    let pair = Pair::started().await;
    let store = pair.open().await;
    let own = store.current_position().await.unwrap();
    until("the replica has everything", async || {
        listed(&store, Some(own)).await;
        store.read_counts().replica > 0
    })
    .await;
    let before = store.read_counts();
    for timeline in [0, own.timeline + 1] {
        listed(&store, Some(CommitPosition { timeline, offset: 1 })).await;
    }
    assert_eq!(store.read_counts().replica, before.replica);
    assert_eq!(store.read_counts().primary, before.primary + 2);
}

/// A replica that lags is skipped, one that is killed as well, and both are used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_or_is_gone_is_passed_over() {
    let pair = Pair::started().await;
    let max_lag = Duration::from_millis(600);
    let settings = pair.settings(ReplicaSettings { max_lag, ..pair.replicas() });
    let store = PostgresStore::open(settings, bodies()).await.unwrap();
    followed(&store).await;
    pair.pause().await;
    let upload = store.insert(change_of(new_upload(1))).await.unwrap();
    until("its lag is seen", async || !store.replicas()[0].is_used).await;
    assert!(store.replicas()[0].lag > max_lag, "{:?}", store.replicas());
    let before = store.read_counts();
    assert_eq!(listed(&store, None).await.len(), 1);
    assert_eq!(store.read_counts().primary, before.primary + 1);
    pair.resume().await;
    followed(&store).await;
    assert_eq!(store.replicas()[0].lag, Duration::ZERO);
    until("the replica answers", async || {
        assert_eq!(listed(&store, None).await.len(), 1);
        store.read_counts().replica > before.replica
    })
    .await;

    pair.replica.kill();
    for _ in 0..3 {
        assert_eq!(found(&store, upload.id(), known(None)).await.id(), upload.id());
        assert_eq!(listed(&store, None).await.len(), 1, "no read fails");
    }
    until("its end is seen", async || !store.replicas()[0].is_used).await;
    pair.replica.start();
    followed(&store).await;
}

/// A replica that does not answer costs one read a moment, and the others nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_replica_holds_up_one_read() {
    let pair = Pair::started().await;
    let store = pair.open().await;
    listed(&store, None).await;
    pair.replica.signal("-STOP");
    let began = std::time::Instant::now();
    assert_eq!(listed(&store, None).await.len(), 0);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    until("it is skipped", async || !store.replicas()[0].is_used).await;
    pair.replica.signal("-CONT");
    followed(&store).await;
}

/// A replica that has become a primary is not read from, although its sessions stay open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_replica_is_not_read_from() {
    let pair = Pair::started().await;
    let store = pair.open().await;
    listed(&store, None).await;
    assert_eq!(store.read_counts().replica, 1);
    pair.replica.promote();
    listed(&store, None).await;
    assert_eq!(store.read_counts().replica, 1);
    assert!(!store.replicas()[0].is_used);
}

/// After a failover, a replica that still follows the former primary has what the new one lacks, and lacks
/// what it has. It is used again when it follows the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_must_follow_the_failover() {
    let Pair { primary, replica: second, at_replica } = Pair::started().await;
    let third = primary.standby();
    let url = format!("postgres://postgres@{},{}/postgres", primary.address(), second.address());
    let max_lag = Duration::from_hours(1);
    let settings = PostgresSettings {
        replicas: ReplicaSettings { max_lag, ..replicas_at(&third.url()) },
        ..PostgresSettings::new(DatabaseUrl::parse(&url, None).unwrap())
    };
    let store = PostgresStore::open(settings, bodies()).await.unwrap();
    followed(&store).await;
    store.insert(change_of(new_upload(1))).await.unwrap();
    let at_primary = primary.connect().await;
    let end: String = at_primary.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    let has_all = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn");
    until("the standby has everything", async || at_replica.query_one(&has_all, &[]).await.unwrap().get(0)).await;
    primary.kill();
    second.promote();
    until("the store has found the new primary", async || store.check().await.is_ok()).await;
    store.insert(change_of(new_upload(2))).await.unwrap();
    until("the timeline is compared", async || !store.replicas()[0].is_used).await;
    assert_eq!(listed(&store, None).await.len(), 2);

    let follow = format!(
        "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port={} user=postgres'",
        second.address().rsplit(':').next().unwrap()
    );
    let at_third = third.connect().await;
    at_third.batch_execute(&follow).await.unwrap();
    at_third.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    followed(&store).await;
    let before = store.read_counts();
    assert_eq!(listed(&store, None).await.len(), 2);
    assert_eq!(store.read_counts().replica, before.replica + 1);
}

/// Two replicas are never at the same position. A node that changes from one to the other shows nothing
/// older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_replica_does_not_go_back_in_time() {
    let pair = Pair::started().await;
    let other = pair.primary.standby();
    let addresses = [&pair.replica, &other].map(|server| DatabaseUrl::parse(&server.url(), None).unwrap()).to_vec();
    let max_lag = Duration::from_hours(1);
    let settings = pair.settings(ReplicaSettings { addresses, max_lag, ..ReplicaSettings::default() });
    let (store, writer) = (PostgresStore::open(settings, bodies()).await.unwrap(), pair.open().await);
    followed(&store).await;
    pair.pause().await;
    writer.insert(change_of(new_upload(1))).await.unwrap();
    let position = writer.current_position().await;
    let watcher = PostgresStore::open(pair.settings(replicas_at(&other.url())), bodies()).await.unwrap();
    until("the other replica has it", async || {
        let read = watcher.read_counts().replica;
        assert_eq!(listed(&watcher, position).await.len(), 1);
        watcher.read_counts().replica > read
    })
    .await;
    let before = store.read_counts();
    assert_eq!(listed(&store, position).await.len(), 1);
    assert_eq!(store.read_counts().primary, before.primary, "it was read from the other replica");
    other.kill();
    for _ in 0..5 {
        assert_eq!(listed(&store, None).await.len(), 1, "the paused one would be older");
    }
}

async fn refusal(settings: PostgresSettings) -> String {
    let error = PostgresStore::open(settings, bodies()).await.unwrap_err();
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_the_wrong_place_says_what_to_change() {
    let pair = Pair::started().await;
    let settings = |url: &str| pair.settings(replicas_at(url));
    let refused = refusal(settings(&pair.primary.url())).await;
    assert!(refused.contains("accepts writes") && refused.contains("remove this one"), "{refused}");
    assert!(refused.contains(&pair.primary.address()), "{refused}");

    let stranger = Server::started();
    let refused = refusal(settings(&stranger.standby().url())).await;
    assert!(refused.contains("but of another one"), "{refused}");

    let impatient = PostgresSettings { start_timeout: Duration::ZERO, ..pair.replica.settings() };
    let refused = PostgresStore::open(impatient, bodies()).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    let why = refused.unwrap_err().source().unwrap().to_string();
    assert!(why.contains("read-only replica") && why.contains("the primary"), "{why}");

    // Where servers take over from each other, the roles at a start are not a mistake.
    let url = format!("postgres://postgres@{},{}/postgres", pair.primary.address(), pair.replica.address());
    let changing = PostgresSettings::new(DatabaseUrl::parse(&url, None).unwrap());
    let replicas = replicas_at(&pair.primary.url());
    let store = PostgresStore::open(PostgresSettings { replicas, ..changing }, bodies()).await.unwrap();
    assert!(!store.replicas()[0].is_used);

    pair.replica.kill();
    let store = PostgresStore::open(settings(&pair.replica.url()), bodies()).await.unwrap();
    assert_eq!(listed(&store, None).await.len(), 0, "the start does not need it");
    pair.replica.start();
    followed(&store).await;
}
