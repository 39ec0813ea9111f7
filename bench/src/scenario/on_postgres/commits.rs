//! The rate of commits, measured at the port that a server commits through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::JoinSet;

use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::principal::TenantId;
use domain::size::Length;
use domain::upload::{DurableBytes, NewUpload, Role, Upload, UploadTerms};
use domain::write_rules::{Completion, WriteOrder, WriteRules};
use state::{Change, EventBodies, UploadStore};
use state_postgres::{DatabaseUrl, PostgresSettings, PostgresStore};
use state_sqlite::{SqliteSettings, SqliteStore};

use crate::lab::Lab;
use crate::results::{Metric, Values};
use crate::scenario::on_postgres::Rows;
use crate::server::empty_database;
use crate::stats::Times;
use crate::subject::Subject;

/// The uploads that commit at the same time.
pub(super) const UPLOADS: u8 = 200;

/// The size of the values that a server stores with each checkpoint: the state of a CRC-32C, and a position.
const STORED: usize = 40;

/// The functions for bodies of events about deliveries, of which there are none.
const NO_BODIES: EventBodies = EventBodies {
    notice: |_, _| String::new(),
    ping: |_, _| String::new(),
    thin: |_| String::new(),
    expunged: |_| String::new(),
};

pub(super) fn measure(lab: &Lab, subject: Subject, rows: Rows<'_>) -> anyhow::Result<Values> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let how_long = lab.plan.storm;
    if subject == Subject::LongshorePostgres {
        let given = rows.setup(subject)?.database;
        let database = given.map_or_else(|| empty_database(&lab.kit), Ok)?;
        let address = DatabaseUrl::parse(&database.url(), None)?;
        let settings = PostgresSettings { alone: true, ..PostgresSettings::new(address) };
        return runtime.block_on(async {
            let store = PostgresStore::open(settings, NO_BODIES).await?;
            commit_all(&store, how_long, PostgresStore::transactions).await
        });
    }
    let folder = lab.kit.empty_folder(subject)?;
    let measured = runtime.block_on(async {
        let store = SqliteStore::open(&folder.join("longshore.db"), SqliteSettings::default(), NO_BODIES).await?;
        commit_all(&store, how_long, SqliteStore::transactions).await
    });
    std::fs::remove_dir_all(&folder)?;
    measured
}

async fn commit_all<S: UploadStore>(
    store: &Arc<S>,
    how_long: Duration,
    transactions: fn(&S) -> u64,
) -> anyhow::Result<Values> {
    let mut uploads = Vec::new();
    for number in 0..UPLOADS {
        uploads.push(store.insert(change_of(new_upload(number, &**store))).await?);
    }
    let (before, began) = (transactions(store), Instant::now());
    let until = began + how_long;
    let mut tasks: JoinSet<anyhow::Result<Times>> = JoinSet::new();
    for upload in uploads {
        let store = Arc::clone(store);
        tasks.spawn(async move { commit_in_a_loop(&*store, upload, until).await });
    }
    let mut times = Times::default();
    while let Some(one) = tasks.join_next().await {
        times.extend(one??);
    }
    let seconds = began.elapsed().as_secs_f64();
    let transactions = transactions(store) - before;
    store.close().await;
    ensure!(transactions > 0, "no transaction was counted");
    let commits = times.count() as f64;
    Ok(Values::from([
        (Metric::CommitsPerSecond, commits / seconds),
        (Metric::CommitsPerTransaction, commits / transactions as f64),
        (Metric::P50Ms, times.quantile_ms(500)),
        (Metric::P99Ms, times.quantile_ms(990)),
    ]))
}

async fn commit_in_a_loop(store: &impl UploadStore, mut upload: Upload, until: Instant) -> anyhow::Result<Times> {
    let mut times = Times::default();
    while Instant::now() < until {
        let (now, offset) = (store.clock().now(), upload.offset().get());
        let durable = DurableBytes {
            ranges: vec![(offset, offset + 1)],
            running_digests: vec![7; STORED],
            resume: vec![7; STORED],
            expires_at: now.plus(Duration::from_hours(24)),
        };
        upload.receive(durable, None, now).context("could not make a checkpoint")?;
        let began = Instant::now();
        upload = store.commit(change_of(upload)).await?;
        times.add(began.elapsed());
    }
    Ok(times)
}

fn new_upload(number: u8, store: &impl UploadStore) -> Upload {
    let now = store.clock().now();
    let new = NewUpload {
        id: UploadId::new(now, [number; 10]),
        tenant: TenantId::DEFAULT,
        dialect: Dialect::named("tus"),
        write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
        role: Role::Single,
        length: Length::new(1 << 40),
        metadata: Metadata::default(),
        metadata_as_sent: None,
        terms: UploadTerms::default(),
        wanted_digests: Vec::new(),
        promised_digests: Vec::new(),
        expires_at: now.plus(Duration::from_hours(24)),
    };
    Upload::create(new, now)
}

/// Returns the change for a server to commit. Only the first changes of an upload have events, whose
/// identifiers are distinguished by their place in it.
fn change_of(upload: Upload) -> Change {
    let mut random = [0; 10];
    random.copy_from_slice(&upload.id().as_bytes()[6..]);
    Change::new(upload, |record, event| api::event::upload(record, event, "/api/v1/uploads/"), || random)
}
