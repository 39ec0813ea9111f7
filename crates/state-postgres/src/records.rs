//! Records of uploads as rows of `uploads` and `upload_progress`, written in batches.
//!
//! A commit names the version and the epoch that were read. The statement returns the committed rows; a
//! missing row is a conflict. The row of `uploads` is written only if it changes, which is rare between two
//! stages.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use state_rows::{Cell, OriginRow, Row as _, ToCell, UploadRow};

use crate::bucket::{bucket_of, days_of};
use crate::day_tables::Day;
use crate::fault::Fault;
use crate::log::array_of;
use crate::params::{Kind, Param, params};
use crate::rows::{Columns, PROGRESS_COLUMNS};
use crate::session::{Planning, Session};
use crate::transaction::Transaction;
use crate::unfinished::has_work;
use domain::id::UploadId;
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::{Record, Role, Upload};

/// The rounding of `changed_about_ms` and `expires_about_ms`.
pub(crate) const CHANGED_WITHIN_MS: i64 = 60_000;
pub(crate) const EXPIRES_WITHIN_MS: i64 = 600_000;

/// The maximum length of a metadata name or value that can be searched for, in bytes.
const MAX_INDEXED_BYTES: usize = 1024;

/// Names and values of metadata.
pub(crate) type MetadataPairs<'a> = &'a [(String, Vec<u8>)];

/// Columns that the indexes need in addition to those of the record.
const DERIVED_COLUMNS: [&str; 8] = [
    "changed_about_ms",
    "expires_about_ms",
    "is_full",
    "completed_at_ms",
    "content_type",
    "width",
    "height",
    "duration_ms",
];

/// A record, ready to be written.
#[derive(Debug)]
pub(crate) struct PreparedRecord {
    pub(crate) id: UploadId,
    /// True if the sweeper may have to work on the upload.
    pub(crate) has_work: bool,
    /// True if the upload is completed or has ended.
    pub(crate) is_settled: bool,
    /// The cells of [`COMMITTED`], followed by those of the origin.
    cells: Vec<Cell>,
}

impl PreparedRecord {
    pub(crate) fn of(upload: &Upload) -> Self {
        let record = upload.record();
        let mut cells = vec![Cell::Integer(bucket_of(record.id.as_bytes()))];
        cells.extend(UploadRow::cells(record));
        cells.extend(derived(record));
        cells.extend(OriginRow::cells(record).into_iter().skip(1));
        let is_settled = matches!(record.stage, Stage::Completed | Stage::Ended(_));
        Self { id: record.id, has_work: has_work(record), is_settled, cells }
    }
}

fn derived(record: &Record) -> [Cell; DERIVED_COLUMNS.len()] {
    let is_open = match record.stage {
        Stage::Created | Stage::Receiving | Stage::Stalled => true,
        Stage::Received | Stage::Verified | Stage::Stored | Stage::Completed | Stage::Ended(_) => false,
    };
    let is_final = matches!(record.role, Role::Final { .. });
    let has_all = record.length.is_some_and(|length| record.received.has_all(0, length.get()));
    let completed_at = record.timeline.last().filter(|_| record.stage == Stage::Completed).map(|(_, at)| *at);
    let (width, height) = record.facts.as_ref().map_or((None, None), |facts| facts.size());
    [
        about(record.updated_at, CHANGED_WITHIN_MS).to_cell(),
        record.expires_at.map(|at| about(at, EXPIRES_WITHIN_MS)).to_cell(),
        (is_open && !is_final && has_all).to_cell(),
        completed_at.to_cell(),
        record.facts.as_ref().map(|facts| facts.content_type.clone()).to_cell(),
        width.to_cell(),
        height.to_cell(),
        record.facts.as_ref().and_then(|facts| facts.duration_ms()).to_cell(),
    ]
}

/// Rounds an instant down.
fn about(at: Timestamp, within_ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(at.unix_ms().div_euclid(within_ms).saturating_mul(within_ms))
}

/// The columns of a commit.
static COMMITTED: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let columns = ["bucket"].into_iter().chain(UploadRow::COLUMNS.iter().copied());
    columns.chain(DERIVED_COLUMNS).collect()
});

/// The columns of a commit, followed by those of the origin.
static INSERTED: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| COMMITTED.iter().copied().chain(OriginRow::COLUMNS.iter().copied().skip(1)).collect());

fn is_progress(column: &str) -> bool {
    column == "bucket" || PROGRESS_COLUMNS.contains(&column)
}

/// Reports whether a column belongs to `uploads`.
fn is_record(column: &str) -> bool {
    column == "bucket" || column == "id" || !is_progress(column)
}

/// Returns the common table expression of the rows to write, built from arrays.
fn new_rows(columns: &[&str]) -> String {
    let arrays: Vec<String> =
        columns.iter().enumerate().map(|(place, column)| array_of("uploads", column, place + 1)).collect();
    format!("new AS (SELECT * FROM unnest({}) AS new ({}))", arrays.join(", "), columns.join(", "))
}

fn list(columns: &[&'static str], wanted: fn(&str) -> bool, prefix: &str) -> String {
    let columns = columns.iter().filter(|column| wanted(column));
    columns.map(|column| format!("{prefix}{column}")).collect::<Vec<_>>().join(", ")
}

static INSERT: LazyLock<String> = LazyLock::new(|| {
    let columns = &INSERTED;
    let [bucket, key, value, upload] = [1, 2, 3, 4].map(|place| columns.len() + place);
    format!(
        "WITH {},
         progress AS (INSERT INTO upload_progress ({}) SELECT {} FROM new ON CONFLICT DO NOTHING RETURNING id),
         record AS (INSERT INTO uploads ({}) SELECT {} FROM new WHERE id IN (SELECT id FROM progress)),
         searched AS (INSERT INTO upload_metadata (bucket, key, value, upload_id)
             SELECT * FROM unnest(${bucket}::bigint[], ${key}::text[], ${value}::bytea[], ${upload}::uuid[])
                 AS pair (bucket, key, value, upload_id) WHERE upload_id IN (SELECT id FROM progress))
         SELECT id FROM progress",
        new_rows(columns),
        list(columns, is_progress, ""),
        list(columns, is_progress, "new."),
        list(columns, is_record, ""),
        list(columns, is_record, "new."),
    )
});

static COMMIT: LazyLock<String> = LazyLock::new(|| {
    let columns = &COMMITTED;
    let (from, end) = (columns.len() + 1, columns.len() + 2);
    let is_set = |column: &&&str| !["bucket", "id", "holder", "epoch", "lease_generation"].contains(*column);
    let set = |wanted: fn(&str) -> bool| {
        let set = columns.iter().filter(is_set).filter(|column| wanted(column));
        set.map(|column| format!("{column} = new.{column}")).collect::<Vec<_>>().join(", ")
    };
    // No index speeds up this comparison, so only columns that can change between two commits are compared.
    let compared: Vec<&'static str> =
        columns.iter().copied().filter(|column| is_record(column) && !["bucket", "id"].contains(column)).collect();
    format!(
        "WITH {},
         progress AS (UPDATE upload_progress AS old SET {} FROM new
             WHERE old.id = new.id AND old.bucket = new.bucket/*days*/ AND old.id >= ${from} AND old.id < ${end}/*end*/
                 AND old.version = new.version - 1 AND old.epoch = new.epoch
             RETURNING old.id),
         record AS (UPDATE uploads AS old SET {} FROM new JOIN progress USING (id)
             WHERE old.id = new.id AND old.bucket = new.bucket/*days*/ AND old.id >= ${from} AND old.id < ${end}/*end*/
                 AND ({}) IS DISTINCT FROM ({}))
         SELECT id FROM progress",
        new_rows(columns),
        set(is_progress),
        set(is_record),
        list(&compared, |_| true, "old."),
        list(&compared, |_| true, "new."),
    )
});

/// Returns the columns of many records as arrays.
fn arrays(records: &[&PreparedRecord], columns: &[&str]) -> Vec<Param> {
    let array = |(place, column): (usize, &&str)| {
        Kind::of("uploads", column).array(records.iter().map(|record| &record.cells[place]))
    };
    columns.iter().enumerate().map(array).collect()
}

fn ids(rows: &[tokio_postgres::Row]) -> Result<BTreeSet<UploadId>, Fault> {
    rows.iter().map(|row| Columns::of(row).next()).collect()
}

/// Writes new records, all of one day if it is given, within the open transaction of a session: see
/// [`Transaction::insert_records`].
pub(crate) async fn insert(
    session: &Session,
    day: Option<Day>,
    records: &[(&PreparedRecord, MetadataPairs<'_>)],
) -> Result<BTreeSet<UploadId>, Fault> {
    let prepared: Vec<&PreparedRecord> = records.iter().map(|(record, _)| *record).collect();
    let (mut buckets, mut keys, mut values, mut uploads) = (vec![], vec![], vec![], vec![]);
    for (record, pairs) in records {
        for (key, value) in *pairs {
            if key.len() > MAX_INDEXED_BYTES || value.len() > MAX_INDEXED_BYTES {
                continue;
            }
            buckets.push(bucket_of(record.id.as_bytes()));
            keys.push(key.clone());
            values.push(Some(value.clone()));
            uploads.push(record.id);
        }
    }
    let mut all = arrays(&prepared, &INSERTED);
    all.extend(params![buckets, keys, Param::ByteStrings(values), uploads].iter().cloned());
    ids(&session.query_as(&INSERT, Planning::on(day), &all).await?)
}

impl Transaction<'_> {
    /// Writes new records with the metadata they can be found by. Returns the identifiers of those that did
    /// not exist yet; existing records are left unchanged.
    pub(crate) async fn insert_records(
        &self,
        records: &[(&PreparedRecord, MetadataPairs<'_>)],
    ) -> Result<BTreeSet<UploadId>, Fault> {
        if records.is_empty() {
            return Ok(BTreeSet::new());
        }
        let day = self.shared.days.day_of(records.iter().map(|(record, _)| record.id.as_bytes()));
        insert(self.session(), day, records).await
    }

    /// Updates existing records. Returns the identifiers of those that were not changed since they were read.
    pub(crate) async fn commit_records(&self, records: &[&PreparedRecord]) -> Result<BTreeSet<UploadId>, Fault> {
        let Some((first, end)) = days_of(records.iter().map(|record| &record.id)) else { return Ok(BTreeSet::new()) };
        let mut values = arrays(records, &COMMITTED);
        values.extend([Param::from(first), Param::from(end)]);
        ids(&self.query_of(records.iter().map(|record| record.id.as_bytes()), &COMMIT, &values).await?)
    }
}
