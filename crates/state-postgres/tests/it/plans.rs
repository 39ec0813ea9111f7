//! The plans of all statements of the store: each uses an index, and accesses one partition if the upload is
//! known.
//!
//! The statements are not listed here. The server logs the plan of each while the store runs all its
//! operations, and uses sequential scans only where no index applies.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use domain::id::UploadId;
use domain::log::EventPosition;
use domain::metadata::Metadata;
use domain::policy::TypePattern;
use domain::principal::TenantScope;
use domain::query::{HookCallQuery, NumberBounds, UploadQuery};
use domain::stage::Stage;
use domain::upload::{NewUpload, Upload};
use longshore_state_postgres::PostgresStore;
use state::conformance::{LEASE, NOW, StateFixture, asked, at, change_of, complete, leases, new_upload, own, receive};
use state::{EventLog, HookCalls, Leases, Membership, Store, SweepSelection, Uploads};

use crate::place::Database;

/// Tables that grow with the number of uploads.
const LARGE: [&str; 7] =
    ["uploads", "upload_progress", "upload_metadata", "events", "deliveries", "attempts", "hook_calls"];

/// The statements that the server has planned for a database, with their plans.
pub(crate) struct Plans {
    database: String,
    path: String,
    from: usize,
}

impl Plans {
    /// Makes the server log the plans of all later connections to the database. A sequential scan costs so
    /// much then that the server would compile the statement.
    pub(crate) async fn log(place: &Database) -> Self {
        let database = place.url().rsplit('/').next().unwrap().to_owned();
        let sql = format!(
            "ALTER DATABASE {database} SET session_preload_libraries = 'auto_explain';
            ALTER DATABASE {database} SET auto_explain.log_min_duration = 0;
            ALTER DATABASE {database} SET enable_seqscan = off;
            ALTER DATABASE {database} SET jit = off"
        );
        place.connect().await.batch_execute(&sql).await.unwrap();
        place.end_connections().await;
        let path = std::env::var("TEST_POSTGRES_LOG").unwrap();
        let from = std::fs::read(&path).unwrap().len();
        Self { database, path, from }
    }

    /// Returns each plan with its statement, as logged.
    pub(crate) fn read(&self) -> Vec<String> {
        let log = std::fs::read(&self.path).unwrap();
        let log = String::from_utf8_lossy(&log[self.from..]).into_owned();
        let (mut plans, mut is_plan) = (Vec::<String>::new(), false);
        for line in log.lines() {
            if !line.starts_with('\t') {
                is_plan = line.starts_with(&format!("{}: ", self.database)) && line.contains("plan:");
                if is_plan {
                    plans.push(String::new());
                }
            } else if is_plan && let Some(plan) = plans.last_mut() {
                plan.push_str(line);
                plan.push('\n');
            }
        }
        plans.sort();
        plans.dedup();
        plans
    }
}

/// Returns the large tables that a plan scans sequentially.
pub(crate) fn scanned(plan: &str) -> Vec<&str> {
    let after = plan.split("Seq Scan on ").skip(1);
    let names = after.filter_map(|rest| rest.split([' ', '\n']).next());
    names.filter(|name| LARGE.iter().any(|table| name.starts_with(table))).collect()
}

/// Reports whether a statement names a table of uploads more often than it names buckets (scale-out S10).
pub(crate) fn lacks_a_bucket(plan: &str) -> bool {
    let statement: Vec<&str> = plan.lines().take_while(|line| !line.contains("(cost=")).collect();
    let statement = statement.join(" ");
    let words: Vec<&str> = statement.split(|mark: char| !(mark.is_ascii_alphanumeric() || mark == '_')).collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).map(without_day).collect();
    let names = |two: &&[&str]| ["FROM", "JOIN", "UPDATE", "INTO"].contains(&two[0]) && LARGE.contains(&two[1]);
    words.windows(2).filter(names).count() > words.iter().filter(|word| **word == "bucket").count()
}

/// Returns the name of the table that a partition of a day belongs to, and any other word unchanged.
fn without_day(word: &str) -> &str {
    match word.rsplit_once('_') {
        Some((table, day)) if day.len() == 8 && day.bytes().all(|digit| digit.is_ascii_digit()) => table,
        _ => word,
    }
}

#[test]
fn a_statement_without_a_bucket_is_found() {
    let plan = |statement: &str| format!("Query Text: {statement}\nLimit  (cost=0.1)\n  Filter: bucket = 1");
    assert!(lacks_a_bucket(&plan("SELECT id FROM uploads WHERE id < $1")));
    assert!(lacks_a_bucket(&plan("UPDATE deliveries SET a = 1 FROM events WHERE events.bucket = $1")));
    assert!(lacks_a_bucket(&plan("SELECT id FROM uploads_20261121 WHERE id < $1")));
    assert!(!lacks_a_bucket(&plan("SELECT id FROM uploads JOIN upload_progress USING (id, bucket) WHERE bucket = $1")));
    assert!(!lacks_a_bucket(&plan("SELECT id FROM endpoints")));
}

#[tokio::test]
async fn every_statement_about_uploads_goes_by_an_index() {
    let place = Database::new();
    let plans = Plans::log(&place).await;
    let store = place.open().await;
    run_in_all_ways(&store, async |number| ask_everything(&store, number).await).await;
    store.close().await;
    let plans = plans.read();
    assert!(plans.len() >= 30, "only {} plans were logged", plans.len());
    let slow: Vec<_> = plans.iter().filter(|plan| !scanned(plan).is_empty()).map(String::as_str).collect();
    assert!(slow.is_empty(), "{}", slow.join("\n"));

    let unplaced: Vec<_> = plans.iter().filter(|plan| lacks_a_bucket(plan)).map(String::as_str).collect();
    assert!(unplaced.is_empty(), "{}", unplaced.join("\n"));

    // A commit looks up single rows, also with a plan that was made for an empty table.
    let commits: Vec<_> = plans.iter().filter(|plan| plan.contains("progress AS (UPDATE upload_progress_2")).collect();
    assert!(!commits.is_empty());
    for plan in commits {
        assert_eq!(plan.matches("Index Cond: ((id = new_").count(), 2, "{plan}");
    }

    let point = plans.iter().filter(|plan| plan.contains("USING (id, bucket) WHERE bucket = $1 AND id = $2"));
    let mut ways = HashSet::new();
    for plan in point {
        ways.insert(plan.contains("FROM uploads JOIN"));
        for table in ["on uploads_2", "on upload_progress_2", "using uploads_2", "using upload_progress_2"] {
            assert!(plan.matches(table).count() <= 1, "one partition is searched:\n{plan}");
        }
    }
    assert_eq!(ways.len(), 2, "an upload was found in the tables of its day, and in those of all days");
}

/// Runs operations until all their statements have been planned in all ways: for the first use in a session,
/// for all further uses, and about the tables of all days.
pub(crate) async fn run_in_all_ways(store: &PostgresStore, run: impl AsyncFn(u8)) {
    run(1).await;
    run(2).await;
    store.forget_days();
    run(3).await;
}

async fn ask_everything(store: &PostgresStore, number: u8) {
    let metadata = Metadata::new(vec![("key 0".to_owned(), b"value".to_vec())]).unwrap();
    store.insert(change_of(Upload::create(NewUpload { metadata, ..asked(number) }, NOW))).await.unwrap();
    let node = leases::node(1);
    store.join(&node, Membership::Others, None).await.unwrap();
    assert!(store.renew(node.instance, LEASE).await.unwrap());
    let id = new_upload(number).id();
    store.acquire(id, node.instance).await.unwrap();
    let mut upload = store.find(TenantScope::All, id).await.unwrap().unwrap();
    receive(&mut upload, 5_000, at(2));
    let mut upload = store.commit(change_of(upload)).await.unwrap();
    complete(&mut upload, at(3));
    store.commit(change_of(upload)).await.unwrap();
    store.leave(node.instance).await.unwrap();
    for selection in [
        SweepSelection::Unsettled,
        SweepSelection::Unsealed,
        SweepSelection::Expired { now: NOW },
        SweepSelection::Silent { since: NOW },
        SweepSelection::Overlong { now: NOW, latest: NOW },
        SweepSelection::ChangedAfter { now: NOW },
        SweepSelection::Removable,
        SweepSelection::Outdated { completed_before: NOW },
    ] {
        store.due(selection, state::SweepShare::OwnAndFree(own()), 0, 10).await.unwrap();
    }
    store.count_missing().await.unwrap();
    for query in upload_queries() {
        store.list(TenantScope::All, &query).await.unwrap();
    }
    store.events_of(TenantScope::All, id, 0, 10).await.unwrap();
    store.events_since(TenantScope::All, EventPosition(0), 10).await.unwrap();
    store.count_events_behind(TenantScope::All, EventPosition(0), 10).await.unwrap();
    for upload in [None, Some(id)] {
        store
            .hook_calls(TenantScope::All, &HookCallQuery { upload, limit: 10, ..HookCallQuery::default() })
            .await
            .unwrap();
    }
}

/// Combinations of the conditions that may change the walked index.
fn upload_queries() -> impl Iterator<Item = UploadQuery> {
    (0..108_usize).map(|mix| {
        let bounds = NumberBounds { least: (mix % 2 == 1).then_some(1), most: None };
        let pair = |number: usize| (format!("key {number}"), b"value".to_vec());
        UploadQuery {
            stages: [Stage::Created, Stage::Completed].into_iter().take(mix / 4 % 3).collect(),
            metadata: (0..mix / 12 % 3).map(pair).collect(),
            created_from: (mix / 2 % 2 == 1).then_some(NOW),
            types: ["video/mp4", "image/*"].into_iter().filter_map(TypePattern::new).take(mix / 36).collect(),
            width: bounds,
            before: Some(new_upload(9).id()),
            limit: 10,
            ..UploadQuery::default()
        }
    })
}

/// Checkpoints update their row in place, and the table does not grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_update_their_row_in_place() {
    const UPLOADS: u8 = 100;
    let checkpoints: u64 = std::env::var("CHECKPOINTS").ok().map_or(100_000, |count| count.parse().unwrap());
    let place = Database::new();
    let store = place.open().await;
    let began = Instant::now();
    let writing = (0..UPLOADS).map(|number| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move {
            let id = UploadId::new(NOW, [number; 10]);
            let new = NewUpload { id, length: domain::size::Length::new(1 << 40), ..asked(1) };
            let mut upload = store.insert(change_of(Upload::create(new, NOW))).await.unwrap();
            for step in 0..checkpoints / u64::from(UPLOADS) {
                // Most checkpoints write bytes without an event.
                receive(&mut upload, 1, at(i64::try_from(step).unwrap() / 10));
                upload = store.commit(change_of(upload)).await.unwrap();
            }
        })
    });
    for written in writing.collect::<Vec<_>>() {
        written.await.unwrap();
    }
    let rate = f64::from(u32::try_from(checkpoints).unwrap()) / began.elapsed().as_secs_f64();
    println!("{rate:.0} commits/s, {} commits in {} transactions", store.writes(), store.transactions());
    store.close().await;
    // A server process reports its counts at its end.
    place.end_connections().await;
    let client = place.connect().await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let sql = "SELECT sum(n_tup_upd)::bigint, sum(n_tup_hot_upd)::bigint FROM pg_stat_user_tables
        WHERE relname LIKE 'upload\\_progress\\_%'";
    let row = client.query_one(sql, &[]).await.unwrap();
    let (all, hot): (i64, i64) = (row.get(0), row.get(1));
    println!("{hot} of {all} updates of upload_progress in place");
    assert!(all >= i64::try_from(checkpoints).unwrap() && hot * 10 >= all * 8, "{hot} of {all}");
    let cold = "SELECT coalesce(sum(n_tup_upd), 0)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'uploads\\_%'";
    let cold: i64 = client.query_one(cold, &[]).await.unwrap().get(0);
    println!("{cold} updates of uploads");
    assert!(cold * 10 <= all, "{cold} of {all} checkpoints wrote the row that has indexes");
}
