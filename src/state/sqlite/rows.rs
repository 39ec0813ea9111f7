//! Uploads, events and attempts as columns, and back.
//!
//! Lists are JSON so that a row can be read with any SQLite tool; states of machines are blobs. What was written by
//! this module reads back equal; anything else is an error of the column, never a guess.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;
use sqlx::Row;
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::sqlite::SqliteRow;

use crate::domain::checksum::Algorithm;
use crate::domain::checksum::Digest;
use crate::domain::delivery::Attempt;
use crate::domain::delivery::AttemptOutcome;
use crate::domain::delivery::EndpointId;
use crate::domain::event::EventKind;
use crate::domain::id::EventId;
use crate::domain::id::UploadId;
use crate::domain::metadata::Metadata;
use crate::domain::ranges::ReceivedRanges;
use crate::domain::size::Length;
use crate::domain::size::Offset;
use crate::domain::time::Timestamp;
use crate::domain::upload::Bytes as StoredBytes;
use crate::domain::upload::Dialect;
use crate::domain::upload::Failure;
use crate::domain::upload::Record;
use crate::domain::upload::Role;
use crate::domain::upload::Stage;
use crate::domain::upload::Upload;
use crate::state::EventPosition;
use crate::state::LoggedEvent;
use crate::state::value_json;

pub(super) type SqliteQuery = Query<'static, Sqlite, SqliteArguments>;

/// A column holds what this program does not write.
#[derive(Debug, thiserror::Error)]
#[error("column {0} holds something unknown")]
struct Unreadable(&'static str);

/// A count as a database integer. None of ours comes near the end of it: sizes are bounded by their types, and
/// versions and sequences count commits.
pub(super) fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Binds the parts of an upload that change, in the order `?1` to `?21` of the statements that write them. The
/// version is the one the commit makes.
pub(super) fn bind_upload(query: SqliteQuery, record: &Record) -> SqliteQuery {
    let (last_progress_offset, last_progress_at) = record.last_progress;
    query
        .bind(record.id.as_bytes().to_vec())
        .bind(integer(record.version + 1))
        .bind(record.stage.name())
        .bind(record.role.name())
        .bind(record.length.map(|length| integer(length.get())))
        .bind(json(&record.received.pairs()))
        .bind(json(&record.wanted_digests.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>()))
        .bind(digests_json(&record.promised_digests))
        .bind(record.running_digests.clone())
        .bind(digests_json(&record.digests))
        .bind(record.resume.clone())
        .bind(record.bytes == StoredBytes::Kept)
        .bind(json(&record.timeline.iter().map(|(stage, at)| (stage.name(), at.unix_ms())).collect::<Vec<_>>()))
        .bind(record.failure.as_ref().map(|failure| failure.code.clone()))
        .bind(record.failure.as_ref().map(|failure| failure.message.clone()))
        .bind(record.created_at.unix_ms())
        .bind(record.updated_at.unix_ms())
        .bind(record.expires_at.map(Timestamp::unix_ms))
        .bind(integer(record.next_sequence))
        .bind(integer(last_progress_offset.get()))
        .bind(last_progress_at.unix_ms())
}

/// Binds the parts of an upload that never change, `?1` to `?6`.
pub(super) fn bind_origin(query: SqliteQuery, record: &Record) -> SqliteQuery {
    let (parts, as_sent) = match &record.role {
        Role::Final { parts, as_sent } => {
            (Some(json(&parts.iter().map(ToString::to_string).collect::<Vec<_>>())), Some(as_sent.clone()))
        }
        Role::Single | Role::Partial => (None, None),
    };
    let metadata: Vec<_> = record.metadata.pairs().iter().map(|(name, value)| (name, value_json(value))).collect();
    query
        .bind(record.id.as_bytes().to_vec())
        .bind(record.dialect.name())
        .bind(parts)
        .bind(as_sent)
        .bind(json(&metadata))
        .bind(record.metadata_as_sent.clone())
}

/// Reads an upload from a row of all columns of `uploads` and `upload_origins`.
pub(super) fn upload(row: &SqliteRow) -> sqlx::Result<Upload> {
    Ok(Upload::from_record(Record {
        id: UploadId::from_bytes(id(row, "id")?),
        version: count(row, "version")?,
        dialect: named(row, "dialect", Dialect::by_name)?,
        role: role(row)?,
        stage: named(row, "stage", Stage::by_name)?,
        received: ReceivedRanges::from_pairs(list::<(u64, u64)>(row, "received")?),
        length: length(row)?,
        metadata: metadata(row)?,
        metadata_as_sent: row.try_get("metadata_as_sent")?,
        wanted_digests: algorithms(row)?,
        promised_digests: digests(row, "promised_digests")?,
        running_digests: row.try_get("running_digests")?,
        digests: digests(row, "digests")?,
        resume: row.try_get("resume")?,
        bytes: if row.try_get("bytes_kept")? { StoredBytes::Kept } else { StoredBytes::Removed },
        timeline: timeline(row)?,
        failure: failure(row)?,
        created_at: instant(row, "created_at_ms")?,
        updated_at: instant(row, "updated_at_ms")?,
        expires_at: maybe_instant(row, "expires_at_ms")?,
        next_sequence: count(row, "next_sequence")?,
        last_progress: (offset(row, "last_progress_offset")?, instant(row, "last_progress_at_ms")?),
    }))
}

pub(super) fn logged_event(row: &SqliteRow) -> sqlx::Result<LoggedEvent> {
    Ok(LoggedEvent {
        position: EventPosition(row.try_get("position")?),
        id: EventId::from_bytes(id(row, "id")?),
        upload: UploadId::from_bytes(id(row, "upload_id")?),
        sequence: count(row, "sequence")?,
        kind: kind(row)?,
        body: body(row)?,
    })
}

pub(super) fn attempt(row: &SqliteRow) -> sqlx::Result<Attempt> {
    let status: Option<u16> = row.try_get("status")?;
    let error: Option<String> = row.try_get("error")?;
    Ok(Attempt {
        number: row.try_get("number")?,
        started_at: instant(row, "started_at_ms")?,
        took: Duration::from_micros(count(row, "took_us")?),
        outcome: AttemptOutcome::from_parts(status, error.as_deref()),
        response_body: row.try_get("response_body")?,
        note: row.try_get("note")?,
    })
}

pub(super) fn id(row: &SqliteRow, column: &'static str) -> sqlx::Result<[u8; 16]> {
    row.try_get::<&[u8], _>(column)?.try_into().map_err(|_| unreadable(column))
}

pub(super) fn count(row: &SqliteRow, column: &'static str) -> sqlx::Result<u64> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| unreadable(column))
}

pub(super) fn instant(row: &SqliteRow, column: &'static str) -> sqlx::Result<Timestamp> {
    row.try_get(column).map(Timestamp::from_unix_ms)
}

pub(super) fn maybe_instant(row: &SqliteRow, column: &'static str) -> sqlx::Result<Option<Timestamp>> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_unix_ms))
}

pub(super) fn named<T>(row: &SqliteRow, column: &'static str, by_name: fn(&str) -> Option<T>) -> sqlx::Result<T> {
    by_name(row.try_get(column)?).ok_or_else(|| unreadable(column))
}

pub(super) fn kind(row: &SqliteRow) -> sqlx::Result<EventKind> {
    named(row, "kind", EventKind::by_name)
}

pub(super) fn endpoint(row: &SqliteRow) -> sqlx::Result<EndpointId> {
    named(row, "endpoint", |name| EndpointId::new(name))
}

pub(super) fn body(row: &SqliteRow) -> sqlx::Result<Bytes> {
    row.try_get::<String, _>("body").map(Bytes::from)
}

fn unreadable(column: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(Unreadable(column)))
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("lists of strings and numbers are always JSON")
}

fn list<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &'static str) -> sqlx::Result<Vec<T>> {
    serde_json::from_str(row.try_get(column)?).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn digests_json(digests: &[Digest]) -> String {
    json(&digests.iter().map(|digest| (digest.algorithm().name(), digest.hex())).collect::<Vec<_>>())
}

fn digests(row: &SqliteRow, column: &'static str) -> sqlx::Result<Vec<Digest>> {
    let read = |(name, hex): (String, String)| Digest::new(Algorithm::by_name(&name)?, bytes_of_hex(&hex)?);
    list(row, column)?.into_iter().map(|pair| read(pair).ok_or_else(|| unreadable(column))).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of_hex(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok())).collect();
    digits.map(|digits| digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

fn algorithms(row: &SqliteRow) -> sqlx::Result<Vec<Algorithm>> {
    let names = list::<String>(row, "wanted_digests")?;
    names.iter().map(|name| Algorithm::by_name(name).ok_or_else(|| unreadable("wanted_digests"))).collect()
}

fn metadata(row: &SqliteRow) -> sqlx::Result<Metadata> {
    let pairs = list::<(String, Value)>(row, "metadata")?.into_iter();
    let read: Option<Vec<_>> = pairs.map(|(name, value)| value_bytes(value).map(|value| (name, value))).collect();
    read.and_then(|pairs| Metadata::new(pairs).ok()).ok_or_else(|| unreadable("metadata"))
}

/// The inverse of [`value_json`].
fn value_bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.into_bytes()),
        other => STANDARD.decode(other.get("base64")?.as_str()?).ok(),
    }
}

fn role(row: &SqliteRow) -> sqlx::Result<Role> {
    match row.try_get("role")? {
        "single" => Ok(Role::Single),
        "partial" => Ok(Role::Partial),
        "final" => {
            let parts = list::<String>(row, "parts")?;
            let parts: Result<Vec<UploadId>, _> = parts.iter().map(|part| part.parse()).collect();
            Ok(Role::Final { parts: parts.map_err(|_| unreadable("parts"))?, as_sent: row.try_get("parts_as_sent")? })
        }
        _ => Err(unreadable("role")),
    }
}

fn length(row: &SqliteRow) -> sqlx::Result<Option<Length>> {
    let stored: Option<i64> = row.try_get("length")?;
    let read = |bytes| u64::try_from(bytes).ok().and_then(Length::new).ok_or_else(|| unreadable("length"));
    stored.map(read).transpose()
}

fn offset(row: &SqliteRow, column: &'static str) -> sqlx::Result<Offset> {
    Offset::new(count(row, column)?).ok_or_else(|| unreadable(column))
}

fn timeline(row: &SqliteRow) -> sqlx::Result<Vec<(Stage, Timestamp)>> {
    let read = |(name, at): (String, i64)| Stage::by_name(&name).map(|stage| (stage, Timestamp::from_unix_ms(at)));
    list(row, "timeline")?.into_iter().map(|entry| read(entry).ok_or_else(|| unreadable("timeline"))).collect()
}

fn failure(row: &SqliteRow) -> sqlx::Result<Option<Failure>> {
    let code: Option<String> = row.try_get("failure_code")?;
    let message: Option<String> = row.try_get("failure_message")?;
    Ok(code.zip(message).map(|(code, message)| Failure { code, message }))
}
