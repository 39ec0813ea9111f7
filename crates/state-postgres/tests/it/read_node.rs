//! The store of a read node, which changes nothing but the entry of its node (scale-out C12).

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use domain::log::EventPosition;
use domain::node::NodeName;
use domain::principal::TenantScope;
use longshore_state_postgres::{PostgresSettings, PostgresStore, Schema};
use state::conformance::{StateFixture, bodies, change_of, leases, new_upload};
use state::{ClusterIdentity, ClusterRecord, EventLog, Leases, Membership, Result, Store, Uploads};

use crate::place::Database;

async fn open(place: &Database, schema: Schema) -> Result<Arc<PostgresStore>> {
    let settings = PostgresSettings { only_reads: true, schema, ..place.settings() };
    PostgresStore::open(settings, bodies()).await
}

/// Returns the number of changes of each table but that of nodes, and the number of tables.
async fn changes(place: &Database) -> Vec<(String, i64)> {
    place.end_connections().await;
    let sql = "SELECT relname::text, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables
             WHERE relname <> 'nodes' AND n_tup_ins + n_tup_upd + n_tup_del > 0
         UNION ALL SELECT 'tables', count(*) FROM pg_class ORDER BY 1";
    place.connect().await.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_node_changes_only_its_own_entry() {
    let place = Database::new();
    let writing = place.open().await;
    let upload = writing.insert(change_of(new_upload(1))).await.unwrap();
    let own = ClusterIdentity { name: NodeName::new("one").unwrap(), keys: vec!["a".to_owned()] };
    assert_eq!(writing.record_cluster(&own).await.unwrap(), own);
    writing.close().await;
    drop(writing);
    // A start of another node would create it.
    let day =
        "SELECT to_regclass('attempts_' || to_char(now() AT TIME ZONE 'UTC' + interval '5 days', 'YYYYMMDD'))::text";
    let day: String = place.connect().await.query_one(day, &[]).await.unwrap().get(0);
    place.connect().await.batch_execute(&format!("DROP TABLE {day}")).await.unwrap();
    let before = changes(&place).await;

    let reading = open(&place, Schema::CURRENT).await.unwrap();
    let node = leases::node(7);
    reading.join(&node, Membership::Others, Some(Duration::from_secs(60))).await.unwrap();
    assert!(reading.renew(node.instance, Duration::from_secs(60)).await.unwrap());
    assert_eq!(reading.record_cluster(&own).await.unwrap(), own);
    let other = ClusterIdentity { name: NodeName::new("two").unwrap(), ..own.clone() };
    assert_eq!(reading.record_cluster(&other).await.unwrap(), own, "it learns whose database this is");
    assert_eq!(reading.find(TenantScope::All, upload.id()).await.unwrap(), Some(upload));
    assert_eq!(reading.events_since(TenantScope::All, EventPosition(0), 10).await.unwrap().found.len(), 1);
    // Longer than the interval of the upkeep.
    tokio::time::sleep(Duration::from_secs(6)).await;
    reading.leave(node.instance).await.unwrap();
    assert_eq!(reading.readings().partitions_ahead_days, 4.0, "it sees what is missing");
    reading.close().await;
    drop(reading);
    assert_eq!(changes(&place).await, before);
}

#[tokio::test]
async fn a_read_node_does_not_migrate() {
    for (place, schema) in [(Database::empty(), Schema::CURRENT), (Database::new(), Schema::NEXT)] {
        let before = changes(&place).await;
        let refused = open(&place, schema).await.unwrap_err();
        let text = refused.source().unwrap().to_string();
        assert!(text.contains("start a node of another role first, or run `longshore migrate`"), "{text}");
        assert_eq!(changes(&place).await, before);
    }
    // A migration that only excludes older programs is not needed.
    let place = Database::new();
    longshore_state_postgres::migrate(&PostgresSettings { schema: Schema::NEXT, ..place.settings() }).await.unwrap();
    open(&place, Schema::AFTER_NEXT).await.unwrap();
}
