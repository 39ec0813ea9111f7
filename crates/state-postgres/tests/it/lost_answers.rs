//! Commits whose responses are lost: a proxy between the store and the server ends connections around
//! `COMMIT`.

use std::sync::Arc;
use std::sync::Mutex;

use domain::delivery::DeliveryState;
use domain::id::CommitId;
use domain::principal::TenantScope;
use longshore_state_postgres::PostgresStore;
use state::conformance::{
    LEASE, NOW, StateFixture, at, bodies, change_of, claim, deliveries_to, new_upload, own, receive, subscribed,
    succeed, up_to,
};
use state::{Dispatch, Endpoints, Error, EventLog, HookCalls, Store, Uploads};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::place::Database;

/// The fate of the next `COMMIT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is committed, and the response is lost.
    AnswerLost,
    /// It does not reach the server.
    NeverSent,
}

#[derive(Debug, Default)]
struct Proxy {
    next: Mutex<Option<Fate>>,
    count: Mutex<u32>,
}

impl Proxy {
    /// Listens on a free port, and returns it.
    async fn start(server: String) -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Arc::new(Self::default());
        let accepting = Arc::clone(&proxy);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (proxy, server) = (Arc::clone(&accepting), server.clone());
                tokio::spawn(async move {
                    let server = TcpStream::connect(&server).await.unwrap();
                    proxy.pass_on(client, server).await;
                });
            }
        });
        (proxy, port)
    }

    async fn pass_on(&self, mut client: TcpStream, mut server: TcpStream) {
        let (mut asked, mut told) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                count = client.read(&mut asked) => {
                    let Ok(count @ 1..) = count else { return };
                    let is_commit = asked[..count].windows(7).any(|text| text == b"COMMIT\0");
                    let fate = if is_commit { self.next.lock().unwrap().take() } else { None };
                    if let Some(fate) = fate {
                        *self.count.lock().unwrap() += 1;
                        if fate == Fate::AnswerLost {
                            server.write_all(&asked[..count]).await.unwrap();
                            let _ = server.read(&mut told).await;
                        }
                        return;
                    }
                    if server.write_all(&asked[..count]).await.is_err() { return };
                }
                count = server.read(&mut told) => {
                    let Ok(count @ 1..) = count else { return };
                    if client.write_all(&told[..count]).await.is_err() { return };
                }
            }
        }
    }
}

async fn open_behind_proxy(place: &Database) -> (Arc<PostgresStore>, Arc<Proxy>) {
    let url = place.url_of_store();
    let (user, address) = url.split_once('@').unwrap();
    let (server, database) = address.split_once('/').unwrap();
    let (proxy, port) = Proxy::start(server.to_owned()).await;
    let settings = place.settings_at(&format!("{user}@127.0.0.1:{port}/{database}"));
    (PostgresStore::open(settings, bodies()).await.unwrap(), proxy)
}

/// The record shows whether a commit was made. A lost commit is repeated, and none is made twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_commit_is_lost_or_done_twice() {
    let place = Database::new();
    let (store, proxy) = open_behind_proxy(&place).await;
    let mut upload = store.insert(change_of(new_upload(1))).await.unwrap();
    for number in 1..=200_u8 {
        *proxy.next.lock().unwrap() = [None, Some(Fate::AnswerLost), Some(Fate::NeverSent)][usize::from(number % 3)];
        receive(&mut upload, 50, at(i64::from(number)));
        upload.set_commit_id(CommitId::new(NOW, [number; 10]));
        upload = store.commit(change_of(upload)).await.unwrap();
        assert_eq!(upload.record().version, u64::from(number) + 1);
    }
    assert_eq!(*proxy.count.lock().unwrap(), 134);
    let outcomes = store.readings().ambiguous_commits;
    assert_eq!(outcomes, [("committed", 67), ("repeated", 67), ("conflict", 0), ("unknown", 0)]);
    let events = store.events_of(TenantScope::All, upload.id(), 0, 1_000).await.unwrap();
    assert!(events.iter().map(|event| event.sequence).eq(1..=events.len() as u64), "a gap or a double");
    assert_eq!(store.find(TenantScope::All, upload.id()).await.unwrap(), Some(upload));
}

/// Another commit is made while the result of one is unknown.
#[tokio::test]
async fn a_lost_commit_that_was_overtaken_is_a_conflict() {
    let place = Database::new();
    let (store, proxy) = open_behind_proxy(&place).await;
    let other = place.open().await;
    let mut upload = store.insert(change_of(new_upload(1))).await.unwrap();
    let mut theirs = upload.clone();
    receive(&mut theirs, 10, at(1));
    theirs.set_commit_id(CommitId::new(NOW, [1; 10]));
    let theirs = other.commit(change_of(theirs)).await.unwrap();
    *proxy.next.lock().unwrap() = Some(Fate::NeverSent);
    receive(&mut upload, 20, at(2));
    upload.set_commit_id(CommitId::new(NOW, [2; 10]));
    assert!(matches!(store.commit(change_of(upload)).await, Err(Error::Conflict(_))));
    assert_eq!(store.find(TenantScope::All, theirs.id()).await.unwrap(), Some(theirs));
    assert_eq!(store.readings().ambiguous_commits[2], ("conflict", 1));
}

/// Repeatable work is repeated, and its caller does not notice.
#[tokio::test]
async fn what_may_be_done_twice_is_repeated() {
    let place = Database::new();
    let (store, proxy) = open_behind_proxy(&place).await;
    for fate in [Fate::AnswerLost, Fate::NeverSent] {
        *proxy.next.lock().unwrap() = Some(fate);
        store.check().await.unwrap();
        assert_eq!(*proxy.next.lock().unwrap(), None);
    }
    assert_eq!(store.hook_calls(TenantScope::All, &domain::query::HookCallQuery::default()).await.unwrap(), []);
}

/// A settlement is bound to its lease, so it is repeated, and its attempt is recorded once.
#[tokio::test]
async fn a_settlement_is_done_once() {
    let place = Database::new();
    let (store, proxy) = open_behind_proxy(&place).await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(1))).await.unwrap();
    receive(&mut upload, 100, at(1));
    store.commit(change_of(upload)).await.unwrap();
    for fate in [Fate::AnswerLost, Fate::NeverSent] {
        let claims = claim(&*store, "a", at(20)).await;
        assert_eq!(claims.len(), 1);
        *proxy.next.lock().unwrap() = Some(fate);
        succeed(&*store, &claims[0], at(21)).await;
        assert_eq!(*proxy.next.lock().unwrap(), None);
    }
    let deliveries = deliveries_to(&*store, "a").await;
    let seen = deliveries.iter().map(|delivery| (delivery.state, delivery.attempts.len()));
    assert!(seen.eq([(DeliveryState::Succeeded, 1); 2]), "{deliveries:?}");
    assert!(deliveries.iter().all(|delivery| delivery.attempts[0].note.is_none()), "none was late");
}

/// The result of a claim is unknown, so it is not repeated. Deliveries that it may have leased are claimed
/// again when their leases expire.
#[tokio::test]
async fn a_claim_whose_answer_was_lost_runs_out() {
    let place = Database::new();
    let (store, proxy) = open_behind_proxy(&place).await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    store.insert(change_of(new_upload(1))).await.unwrap();
    let slots = [up_to("a", 10)];
    *proxy.next.lock().unwrap() = Some(Fate::AnswerLost);
    let unknown = store.claim_due(own(), &slots, at(20), LEASE).await;
    assert!(matches!(unknown, Err(Error::Unanswered { .. })), "{unknown:?}");
    assert_eq!(store.readings().ambiguous_commits[3], ("unknown", 1));
    assert_eq!(store.claim_due(own(), &slots, at(20), LEASE).await.unwrap(), []);
    let again = store.claim_due(own(), &slots, at(20).plus(LEASE), LEASE).await.unwrap();
    assert_eq!((again.len(), again[0].is_taken_over), (1, true));
}

/// Connections that the server has ended are replaced, and no read fails because of it.
#[tokio::test]
async fn reads_survive_the_end_of_every_connection() {
    let place = Database::new();
    let store = place.open().await;
    let upload = store.insert(change_of(new_upload(1))).await.unwrap();
    let administrator = crate::place::connect(&place.url()).await;
    for round in 0..3 {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        administrator.query(cut, &[]).await.unwrap();
        assert_eq!(store.find(TenantScope::All, upload.id()).await.unwrap(), Some(upload.clone()));
        store.check().await.unwrap();
        let inserted = store.insert(change_of(new_upload(10 + round))).await;
        assert!(inserted.is_ok(), "{inserted:?}");
    }
}
