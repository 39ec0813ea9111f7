//! A database with many rows, of which every run gets a copy.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, ensure};

use state::{EventBodies, Store as _};
use state_postgres::{DatabaseUrl, PostgresSettings, PostgresStore};

use crate::lab::{Lab, Notebook};
use crate::postgres::{Database, Postgres};
use crate::scenario::on_postgres::status;
use crate::scenario::records;
use crate::server::Setup;
use crate::subject::Subject;
use crate::words;

/// The number of days that the rows are spread over.
const DAYS: u32 = 60;

const SEED: &str = "bench/seed_uploads.sql";

/// A timeout for the removal of the bytes of a deleted upload.
const PATIENCE: Duration = Duration::from_secs(20);

pub(in crate::scenario) struct ManyRows {
    original: Arc<Database>,
    /// The identifiers of some of the uploads.
    pub(super) ids: Vec<String>,
}

impl ManyRows {
    /// Starts a PostgreSQL server for this scenario, and fills a database.
    pub(super) fn prepare(lab: &Lab, book: &mut Notebook) -> anyhow::Result<Self> {
        let folder = lab.kit.empty_folder_called("postgres")?;
        let server = Postgres::start(&folder, Ipv4Addr::LOCALHOST.into())?;
        Self::prepare_in(&server, lab, book)
    }

    /// Fills a database of this server.
    pub(in crate::scenario) fn prepare_in(
        server: &Arc<Postgres>,
        lab: &Lab,
        book: &mut Notebook,
    ) -> anyhow::Result<Self> {
        book.note(format!(
            "Many rows: {} uploads of the last {DAYS} days in equal shares, copies of a completed, a deleted and, on \
             the last day, a started upload, with their last event, written by SQL. Each run has a copy of this \
             database and an empty data folder.",
            words::figure(lab.rows as f64)
        ));
        let original = server.create_database()?;
        make_originals(lab, &original, book)?;
        make_days(&original)?;
        let began = Instant::now();
        let variables = [("rows", lab.rows.to_string()), ("days", DAYS.to_string())];
        original.run_file(Path::new(SEED), &variables)?;
        eprintln!("  {} rows written in {:.0} s", lab.rows, began.elapsed().as_secs_f64());
        let counts = original.sql("SELECT count(*), (SELECT count(*) FROM uploads_other) FROM uploads")?;
        let (all, outside) = counts.trim().split_once('|').context("the rows were not counted")?;
        ensure!(all.parse::<u64>()? + u64::from(DAYS) > lab.rows, "only {all} rows were written");
        ensure!(outside == "0", "{outside} rows lie outside of the days");
        let sample = format!("SELECT id FROM uploads ORDER BY random() LIMIT {}", status::UPLOADS);
        let ids = original.sql(&sample)?.lines().map(str::to_owned).collect();
        Ok(Self { original, ids })
    }

    pub(in crate::scenario) fn copy(&self) -> anyhow::Result<Arc<Database>> {
        self.original.server.copy_database(&self.original)
    }
}

/// Creates the uploads that are copied: a completed, a deleted and a started one.
fn make_originals(lab: &Lab, database: &Arc<Database>, book: &mut Notebook) -> anyhow::Result<()> {
    let folder = lab.kit.empty_folder(Subject::LongshorePostgres)?;
    let setup = Setup { database: Some(Arc::clone(database)), data: Some(folder.clone()), ..Setup::default() };
    let server = lab.start(Subject::LongshorePostgres, &setup, book)?;
    records::make_originals(&server)?;
    let until = Instant::now() + PATIENCE;
    while database.sql("SELECT count(*) FROM uploads WHERE NOT bytes_kept")?.trim() != "1" {
        ensure!(Instant::now() < until, "the bytes of a deleted upload were not removed");
        thread::sleep(Duration::from_millis(50));
    }
    server.stop_gently()?;
    Ok(fs::remove_dir_all(&folder)?)
}

/// Creates the partitions of the days before today.
fn make_days(database: &Database) -> anyhow::Result<()> {
    let nothing = EventBodies {
        notice: |_, _| String::new(),
        ping: |_, _| String::new(),
        thin: |_| String::new(),
        expunged: |_| String::new(),
    };
    let address = DatabaseUrl::parse(&database.url(), None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = PostgresStore::open(PostgresSettings::new(address), nothing).await?;
        let first = store.clock().now().minus(Duration::from_hours(24) * (DAYS + 1));
        store.make_days(first, DAYS + 1).await?;
        store.close().await;
        Ok(())
    })
}
