//! Uploads, events and attempts as columns, and back.
//!
//! Lists are JSON so that a row can be read with any SQLite tool; states of machines are blobs. What was written by
//! this module reads back equal; anything else is an error of the column, never a guess. Columns are read in the order
//! their statement names them: looking each up by its name took longer than all the rest of a read.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rusqlite::Row;
use rusqlite::types::{FromSql, Type, Value as Column};
use serde_json::{Value, json};

use api::event_body::value_json;
use api::facts_json::{facts_from_json, facts_json};
use api::terms_json::terms_from_json;
use domain::checksum::{Algorithm, Digest};
use domain::delivery::{Attempt, AttemptOutcome, Timings, Trigger};
use domain::dialect::Dialect;
use domain::endpoint::{EndpointId, EndpointTerms};
use domain::event::EventKind;
use domain::facts::Facts;
use domain::failure::Failure;
use domain::id::{EventId, UploadId};
use domain::metadata::Metadata;
use domain::ranges::ReceivedRanges;
use domain::removal::{DeletedBy, Removal};
use domain::report::Report;
use domain::size::{Length, Offset};
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::{Bytes as StoredBytes, Record, Role, Terms, Upload};
use state::{EventPosition, LoggedEvent};

/// The columns of `uploads` and `upload_origins`, as [`upload`] reads them.
macro_rules! upload_columns {
    () => {
        "id, version, dialect, role, parts, parts_as_sent, stage, received, length, metadata, metadata_as_sent,
         wanted_digests, promised_digests, running_digests, digests, resume, bytes_kept, timeline, failure_code,
         failure_message, created_at_ms, updated_at_ms, expires_at_ms, next_sequence, last_progress_offset,
         last_progress_at_ms, failure_status, facts, accepted_at_ms, reports, removed_at_ms, removed_by, missing_since_ms,
         max_bytes, expires_by_ms"
    };
}
pub(super) use upload_columns;

/// The columns of `events`, as [`logged_event`] reads them.
macro_rules! event_columns {
    () => {
        "position, id, upload_id, sequence, kind, body"
    };
}
pub(super) use event_columns;

/// The columns of `attempts`, as [`attempt`] reads them.
macro_rules! attempt_columns {
    () => {
        "number, started_at_ms, took_us, status, error, response_body, note, trigger, dns_us, connect_us, first_byte_us,
         remote, response_headers, next_at_ms"
    };
}
pub(super) use attempt_columns;

/// A column holds what this program does not write.
#[derive(Debug, thiserror::Error)]
#[error("column {0} holds something unknown")]
struct Unreadable(String);

/// A count as a database integer. None of ours comes near the end of it: sizes are bounded by their types, and
/// versions and sequences count commits.
pub(super) fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The parts of an upload that change, in the order `?1` to `?28` of the statements that write them. The version is
/// the one the commit makes.
pub(super) fn upload_values(record: &Record) -> [Column; 28] {
    let (last_progress_offset, last_progress_at) = record.last_progress;
    [
        record.id.as_bytes().to_vec().into(),
        integer(record.version + 1).into(),
        name(record.stage.name()),
        name(record.role.name()),
        record.length.map(|length| integer(length.get())).into(),
        json(&record.received.pairs()).into(),
        json(&record.wanted_digests.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>()).into(),
        digests_json(&record.promised_digests).into(),
        record.running_digests.clone().into(),
        digests_json(&record.digests).into(),
        record.resume.clone().into(),
        (record.bytes == StoredBytes::Kept).into(),
        json(&record.timeline.iter().map(|(stage, at)| (stage.name(), at.unix_ms())).collect::<Vec<_>>()).into(),
        record.failure.as_ref().map(|failure| failure.code.clone()).into(),
        record.failure.as_ref().map(|failure| failure.message.clone()).into(),
        record.created_at.unix_ms().into(),
        record.updated_at.unix_ms().into(),
        record.expires_at.map(Timestamp::unix_ms).into(),
        integer(record.next_sequence).into(),
        integer(last_progress_offset.get()).into(),
        last_progress_at.unix_ms().into(),
        record.failure.as_ref().and_then(|failure| failure.status).map(i64::from).into(),
        record.facts.as_ref().map(|facts| facts_json(facts).to_string()).into(),
        record.accepted_at.map(Timestamp::unix_ms).into(),
        (!record.reports.is_empty()).then(|| reports_json(&record.reports)).into(),
        record.removed.map(|removed| removed.at.unix_ms()).into(),
        record.removed.map(|removed| removed.by.name().to_owned()).into(),
        record.missing_since.map(Timestamp::unix_ms).into(),
    ]
}

/// The parts of an upload that never change, `?1` to `?8`.
pub(super) fn origin_values(record: &Record) -> [Column; 8] {
    let (parts, as_sent) = match &record.role {
        Role::Final { parts, as_sent } => {
            (Some(json(&parts.iter().map(ToString::to_string).collect::<Vec<_>>())), Some(as_sent.clone()))
        }
        Role::Single | Role::Partial => (None, None),
    };
    let metadata: Vec<_> = record.metadata.pairs().iter().map(|(name, value)| (name, value_json(value))).collect();
    [
        record.id.as_bytes().to_vec().into(),
        name(record.dialect.name()),
        parts.into(),
        as_sent.into(),
        json(&metadata).into(),
        record.metadata_as_sent.clone().into(),
        record.terms.max_bytes.map(integer).into(),
        record.terms.expires_by.map(Timestamp::unix_ms).into(),
    ]
}

fn name(name: &'static str) -> Column {
    Column::Text(name.to_owned())
}

/// Reads an upload from the columns of [`upload_columns`].
pub(super) fn upload(row: &Row<'_>) -> rusqlite::Result<Upload> {
    let mut columns = Columns::of(row);
    // Fields are read in the order they are written here, which is that of the columns.
    let mut record = Record {
        id: UploadId::from_bytes(columns.next()?),
        version: columns.count()?,
        dialect: columns.named(Dialect::by_name)?,
        role: columns.role()?,
        stage: columns.named(Stage::by_name)?,
        received: ReceivedRanges::from_pairs(columns.list::<(u64, u64)>()?),
        length: columns.length()?,
        metadata: columns.metadata()?,
        metadata_as_sent: columns.next()?,
        wanted_digests: columns.algorithms()?,
        promised_digests: columns.digests()?,
        running_digests: columns.next()?,
        digests: columns.digests()?,
        resume: columns.next()?,
        bytes: if columns.next()? { StoredBytes::Kept } else { StoredBytes::Removed },
        timeline: columns.timeline()?,
        failure: columns.failure()?,
        created_at: columns.instant()?,
        updated_at: columns.instant()?,
        expires_at: columns.maybe_instant()?,
        next_sequence: columns.count()?,
        last_progress: (columns.offset()?, columns.instant()?),
        facts: None,
        accepted_at: None,
        reports: Vec::new(),
        removed: None,
        missing_since: None,
        terms: Terms::default(),
    };
    if let (Some(failure), status) = (&mut record.failure, columns.next()?) {
        failure.status = status;
    }
    record.facts = columns.facts()?;
    record.accepted_at = columns.maybe_instant()?;
    record.reports = columns.reports()?;
    record.removed = columns.removal()?;
    record.missing_since = columns.maybe_instant()?;
    record.terms = Terms { max_bytes: columns.maybe_count()?, expires_by: columns.maybe_instant()? };
    Ok(Upload::from_record(record))
}

/// Reads an event from the columns of [`event_columns`].
pub(super) fn logged_event(row: &Row<'_>) -> rusqlite::Result<LoggedEvent> {
    let mut columns = Columns::of(row);
    Ok(LoggedEvent {
        position: EventPosition(columns.next()?),
        id: EventId::from_bytes(columns.next()?),
        upload: UploadId::from_bytes(columns.next()?),
        sequence: columns.count()?,
        kind: columns.kind()?,
        body: columns.body()?,
    })
}

/// Reads an attempt from the columns of [`attempt_columns`].
pub(super) fn attempt(row: &Row<'_>) -> rusqlite::Result<Attempt> {
    let mut columns = Columns::of(row);
    let number = columns.next()?;
    let started_at = columns.instant()?;
    let took = Duration::from_micros(columns.count()?);
    let (status, error): (Option<u16>, Option<String>) = (columns.next()?, columns.next()?);
    let outcome = AttemptOutcome::from_parts(status, error.as_deref());
    let (response_body, note) = (columns.next()?, columns.next()?);
    let trigger = columns.named(Trigger::by_name)?;
    let timings = Timings { dns: columns.span()?, connect: columns.span()?, first_byte: columns.span()? };
    let remote = columns.next::<Option<String>>()?.and_then(|address| address.parse().ok());
    let response_headers = columns.next::<Option<String>>()?.map(|text| columns.read_json(&text)).transpose()?;
    Ok(Attempt {
        number,
        trigger,
        started_at,
        took,
        timings,
        remote,
        outcome,
        response_headers: response_headers.unwrap_or_default(),
        response_body,
        note,
        next_attempt_at: columns.maybe_instant()?,
    })
}

/// The columns of a row, read from the left.
#[derive(Debug)]
pub(super) struct Columns<'row> {
    row: &'row Row<'row>,
    next: usize,
}

impl<'row> Columns<'row> {
    pub(super) fn of(row: &'row Row<'row>) -> Self {
        Self { row, next: 0 }
    }

    /// Those behind the first `count`.
    pub(super) fn behind(row: &'row Row<'row>, count: usize) -> Self {
        Self { row, next: count }
    }

    pub(super) fn next<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.next += 1;
        self.row.get(self.next - 1)
    }

    fn text(&mut self) -> rusqlite::Result<&'row str> {
        self.next += 1;
        Ok(self.row.get_ref(self.next - 1)?.as_str()?)
    }

    pub(super) fn count(&mut self) -> rusqlite::Result<u64> {
        u64::try_from(self.next::<i64>()?).map_err(|_| self.unreadable())
    }

    fn maybe_count(&mut self) -> rusqlite::Result<Option<u64>> {
        let stored: Option<i64> = self.next()?;
        stored.map(|count| u64::try_from(count).map_err(|_| self.unreadable())).transpose()
    }

    pub(super) fn instant(&mut self) -> rusqlite::Result<Timestamp> {
        self.next().map(Timestamp::from_unix_ms)
    }

    pub(super) fn maybe_instant(&mut self) -> rusqlite::Result<Option<Timestamp>> {
        Ok(self.next::<Option<i64>>()?.map(Timestamp::from_unix_ms))
    }

    fn span(&mut self) -> rusqlite::Result<Option<Duration>> {
        Ok(self.maybe_count()?.map(Duration::from_micros))
    }

    pub(super) fn terms(&mut self) -> rusqlite::Result<EndpointTerms> {
        let value: Value = serde_json::from_str(self.text()?).map_err(|_| self.unreadable())?;
        terms_from_json(&value).ok_or_else(|| self.unreadable())
    }

    fn read_json<T: serde::de::DeserializeOwned>(&self, text: &str) -> rusqlite::Result<T> {
        serde_json::from_str(text).map_err(|_| self.unreadable())
    }

    pub(super) fn named<T>(&mut self, by_name: fn(&str) -> Option<T>) -> rusqlite::Result<T> {
        by_name(self.text()?).ok_or_else(|| self.unreadable())
    }

    pub(super) fn kind(&mut self) -> rusqlite::Result<EventKind> {
        self.named(EventKind::by_name)
    }

    pub(super) fn endpoint(&mut self) -> rusqlite::Result<EndpointId> {
        self.named(|name| EndpointId::new(name))
    }

    pub(super) fn body(&mut self) -> rusqlite::Result<Bytes> {
        self.next::<String>().map(Bytes::from)
    }

    fn list<T: serde::de::DeserializeOwned>(&mut self) -> rusqlite::Result<Vec<T>> {
        match self.text()? {
            "[]" => Ok(Vec::new()),
            text => self.read_json(text),
        }
    }

    fn digests(&mut self) -> rusqlite::Result<Vec<Digest>> {
        let read = |(name, hex): (String, String)| Digest::new(Algorithm::by_name(&name)?, bytes_of_hex(&hex)?);
        self.list()?.into_iter().map(read).collect::<Option<_>>().ok_or_else(|| self.unreadable())
    }

    fn algorithms(&mut self) -> rusqlite::Result<Vec<Algorithm>> {
        let names = self.list::<String>()?;
        names.iter().map(|name| Algorithm::by_name(name)).collect::<Option<_>>().ok_or_else(|| self.unreadable())
    }

    pub(super) fn metadata(&mut self) -> rusqlite::Result<Metadata> {
        let pairs = self.list::<(String, Value)>()?.into_iter();
        let read: Option<Vec<_>> = pairs.map(|(name, value)| value_bytes(value).map(|value| (name, value))).collect();
        read.and_then(|pairs| Metadata::new(pairs).ok()).ok_or_else(|| self.unreadable())
    }

    fn role(&mut self) -> rusqlite::Result<Role> {
        let (role, parts, as_sent) = (self.text()?, self.next::<Option<String>>()?, self.next::<Option<String>>()?);
        match (role, parts, as_sent) {
            ("single", None, None) => Ok(Role::Single),
            ("partial", None, None) => Ok(Role::Partial),
            ("final", Some(parts), Some(as_sent)) => {
                let parts = serde_json::from_str::<Vec<String>>(&parts).map_err(|_| self.unreadable())?;
                let parts: Result<Vec<UploadId>, _> = parts.iter().map(|part| part.parse()).collect();
                Ok(Role::Final { parts: parts.map_err(|_| self.unreadable())?, as_sent })
            }
            _ => Err(self.unreadable()),
        }
    }

    fn length(&mut self) -> rusqlite::Result<Option<Length>> {
        let stored: Option<i64> = self.next()?;
        let read = |bytes| u64::try_from(bytes).ok().and_then(Length::new).ok_or_else(|| self.unreadable());
        stored.map(read).transpose()
    }

    fn offset(&mut self) -> rusqlite::Result<Offset> {
        Offset::new(self.count()?).ok_or_else(|| self.unreadable())
    }

    fn timeline(&mut self) -> rusqlite::Result<Vec<(Stage, Timestamp)>> {
        let read = |(name, at): (String, i64)| Some((Stage::by_name(&name)?, Timestamp::from_unix_ms(at)));
        self.list()?.into_iter().map(read).collect::<Option<_>>().ok_or_else(|| self.unreadable())
    }

    fn failure(&mut self) -> rusqlite::Result<Option<Failure>> {
        let (code, message): (Option<String>, Option<String>) = (self.next()?, self.next()?);
        Ok(code.zip(message).map(|(code, message)| Failure { code, message, status: None }))
    }

    fn removal(&mut self) -> rusqlite::Result<Option<Removal>> {
        match (self.maybe_instant()?, self.next::<Option<String>>()?) {
            (None, None) => Ok(None),
            (Some(at), Some(name)) => {
                let by = DeletedBy::by_name(&name).ok_or_else(|| self.unreadable())?;
                Ok(Some(Removal { at, by }))
            }
            (None, Some(_)) | (Some(_), None) => Err(self.unreadable()),
        }
    }

    fn facts(&mut self) -> rusqlite::Result<Option<Facts>> {
        let Some(text) = self.next::<Option<String>>()? else { return Ok(None) };
        let facts = serde_json::from_str(&text).ok().and_then(|value| facts_from_json(&value));
        facts.map(Some).ok_or_else(|| self.unreadable())
    }

    fn reports(&mut self) -> rusqlite::Result<Vec<Report>> {
        let Some(text) = self.next::<Option<String>>()? else { return Ok(Vec::new()) };
        let reports: Vec<StoredReport> = self.read_json(&text)?;
        let read = |(name, percent, message, at_ms, told_at_ms)| {
            let (at, told_at) = (Timestamp::from_unix_ms(at_ms), Timestamp::from_unix_ms(told_at_ms));
            Report { name, percent, message, at, told_at }
        };
        Ok(reports.into_iter().map(read).collect())
    }

    /// About the column read last.
    pub(super) fn unreadable(&self) -> rusqlite::Error {
        let (place, row) = (self.next - 1, self.row.as_ref());
        let column = Unreadable(row.column_name(place).unwrap_or("without a name").to_owned());
        let kind = self.row.get_ref(place).map_or(Type::Null, |value| value.data_type());
        rusqlite::Error::FromSqlConversionFailure(place, kind, Box::new(column))
    }
}

/// Name, percentage, message, when it came, and when an event last told of it.
type StoredReport = (String, Option<u8>, Option<String>, i64, i64);

pub(super) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("lists of strings and numbers are always JSON")
}

fn digests_json(digests: &[Digest]) -> String {
    json(&digests.iter().map(|digest| (digest.algorithm().name(), digest.hex())).collect::<Vec<_>>())
}

fn reports_json(reports: &[Report]) -> String {
    let tuple = |report: &Report| {
        let Report { name, percent, message, at, told_at } = report;
        json!([name, percent, message, at.unix_ms(), told_at.unix_ms()])
    };
    json(&reports.iter().map(tuple).collect::<Vec<_>>())
}

fn bytes_of_hex(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok())).collect();
    digits.map(|digits| digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

/// The inverse of [`value_json`].
fn value_bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.into_bytes()),
        other => STANDARD.decode(other.get("base64")?.as_str()?).ok(),
    }
}
