//! Every statement of a call with a scope names the tenant (access T2).
//!
//! As in [`plans`](super::plans), the statements are recorded, not listed.

use std::collections::BTreeSet;

use super::TemporaryFile;
use super::plans::{delivery_queries, upload_queries};
use super::statements::StatementTrace;
use crate::{SqliteSettings, SqliteStore};
use domain::delivery::ReplayOutcome;
use domain::id::{DeliveryId, ReplayId};
use domain::log::EventPosition;
use domain::principal::{TenantId, TenantScope};
use domain::query::HookCallQuery;
use state::conformance::*;
use state::{Deliveries, Endpoints, EventLog, HookCalls, Replays, Retention, Uploads};

/// The tables whose rows have a tenant.
const OF_TENANTS: [&str; 6] = ["uploads", "events", "deliveries", "hook_calls", "endpoints", "replay_jobs"];

/// Statements that name no tenant, by a part of their text, with the reason why they return no row of another
/// tenant.
const EXCUSED: [(&str, &str); 7] = [
    ("SELECT coalesce(max(position), 0) FROM events", "says where the log ends"),
    ("FROM (SELECT 1 FROM deliveries WHERE endpoint = ?1", "counts for an endpoint that was found in the scope"),
    ("SELECT min(next_at_ms) FROM deliveries WHERE endpoint = ?1", "so does this"),
    ("FROM (SELECT 1 FROM deliveries INDEXED BY", "chooses an index, and does not return the count"),
    ("FROM (SELECT 1 FROM uploads ", "so does this"),
    ("SELECT facts ->> '$.content_type' FROM uploads INDEXED BY", "chooses which parts of an index to walk"),
    // The end may be a row of another tenant. Cursors are sealed, so that clients cannot read it.
    ("ORDER BY id DESC LIMIT 1 OFFSET ?", "finds where a bounded walk ends"),
];

const SCOPE: TenantScope = TenantScope::One(TenantId::DEFAULT);

const OTHERS: TenantScope = TenantScope::One(TenantId::from_number(7));

#[tokio::test]
async fn every_statement_of_a_scoped_call_names_the_tenant() {
    let place = TemporaryFile::new();
    let settings = SqliteSettings { read_connections: 1, lookup_connections: 1, ..SqliteSettings::default() };
    let store = SqliteStore::open(&place.path(), settings, bodies()).await.unwrap();
    store.open_for(own(), vec![subscribed("a", &["*"]), subscribed("b", &["*"])], NOW).await.unwrap();
    store.insert(change_of(new_upload(2))).await.unwrap();
    let listener = StatementTrace::of(&store).await;
    read_in_scope(&store).await;
    let read = listener.take();
    let acted = act_as_another(&store, &listener).await;
    assert!(read.len() >= 20 && acted.len() >= 5, "{} and {} statements were overheard", read.len(), acted.len());

    let (mut unscoped, mut unused) = (Vec::new(), EXCUSED.map(|(sql, _)| sql).to_vec());
    for sql in read.into_iter().chain(acted) {
        let words: Vec<&str> = sql.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
        let is_of_tenants =
            words.windows(2).any(|pair| ["FROM", "UPDATE", "JOIN"].contains(&pair[0]) && OF_TENANTS.contains(&pair[1]));
        let behind_where = sql.split_once("WHERE").map_or("", |(_, conditions)| conditions);
        if !is_of_tenants || behind_where.contains("tenant BETWEEN") {
            continue;
        }
        let excused = EXCUSED.iter().find(|(known, _)| sql.contains(known));
        match excused {
            Some((known, _)) => unused.retain(|sql| sql != known),
            None => unscoped.push(sql),
        }
    }
    assert!(unscoped.is_empty(), "{}", unscoped.join("\n"));
    assert!(unused.is_empty(), "no statement contains any more: {unused:?}");
}

async fn read_in_scope(store: &SqliteStore) {
    let id = new_upload(2).id();
    store.find(SCOPE, id).await.unwrap();
    for query in upload_queries() {
        store.list(SCOPE, &query).await.unwrap();
    }
    for query in delivery_queries() {
        store.deliveries(SCOPE, &query).await.unwrap();
    }
    store.delivery(SCOPE, DeliveryId::new(NOW, [0; 10])).await.unwrap();
    store.backlog(SCOPE, None).await.unwrap();
    store.backlog(SCOPE, Some(&endpoint("a"))).await.unwrap();
    store.events_of(SCOPE, id, 0, 10).await.unwrap();
    store.events_since(SCOPE, EventPosition(0), 10).await.unwrap();
    store.count_events_behind(SCOPE, EventPosition(0), 10).await.unwrap();
    for upload in [None, Some(id)] {
        store.hook_calls(SCOPE, &HookCallQuery { upload, limit: 10, ..HookCallQuery::default() }).await.unwrap();
    }
    store.endpoints(SCOPE).await.unwrap();
    store.replay_jobs(SCOPE).await.unwrap();
}

/// Makes the changing calls for another tenant: each finds nothing and ends there.
async fn act_as_another(store: &SqliteStore, listener: &StatementTrace) -> BTreeSet<String> {
    let (a, now) = (endpoint("a"), at(21));
    let delivery = deliveries_to(store, "a").await[0].id;
    let job = ReplayId::new(NOW, [0; 10]);
    listener.take();
    assert_eq!(store.replay(OTHERS, delivery, true, now).await.unwrap(), ReplayOutcome::NoDelivery);
    assert!(!store.cancel_replay(OTHERS, job, now).await.unwrap());
    assert!(!store.cancel_backlog(OTHERS, &a, now).await.unwrap());
    assert!(!store.remove_endpoint(OTHERS, &a, now).await.unwrap());
    assert_eq!(store.expunge(OTHERS, new_upload(2).id()).await.unwrap(), 0);
    listener.take()
}
