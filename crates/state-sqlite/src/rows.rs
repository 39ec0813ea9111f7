//! Rows in SQLite: cells bound to a statement, and columns read from left to right.
//!
//! [`state_rows`] describes the columns and their contents. Columns are read in the order in which their
//! statement names them, because a lookup of each column by name took longer than the rest of a read.

use std::sync::LazyLock;

use rusqlite::types::{ToSql, ToSqlOutput, Type, ValueRef};
use rusqlite::{Params, Row, params_from_iter};
use state_rows::sql::{self, Placeholders};
use state_rows::{Cell, CellRef, EndpointRow, EventRow, FromCell, Incoherent, OriginRow, Row as _, Source, UploadRow};

use domain::endpoint::Endpoint;
use domain::id::UploadId;
use domain::log::{EventPosition, LoggedEvent};
use domain::upload::Upload;

/// SQLite's placeholder syntax.
pub(super) const PLACEHOLDERS: Placeholders = Placeholders::Question;

/// The columns of an upload in both of its tables, as [`upload`] reads them.
pub(super) static UPLOAD_COLUMNS: LazyLock<String> =
    LazyLock::new(|| format!("{}, {}", sql::columns::<UploadRow>(), sql::columns::<OriginRow>()));

/// The columns of an event, as [`logged_event`] reads them.
pub(super) static EVENT_COLUMNS: LazyLock<String> =
    LazyLock::new(|| format!("position, {}", sql::columns::<EventRow>()));

/// Binds the cells of a row, in the order of its columns.
pub(super) fn bound(cells: &[Cell]) -> impl Params + '_ {
    params_from_iter(cells.iter().map(BoundCell))
}

struct BoundCell<'cell>(&'cell Cell);

impl ToSql for BoundCell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Cell::Null => ValueRef::Null,
            Cell::Flag(flag) => ValueRef::Integer(i64::from(*flag)),
            Cell::Integer(integer) => ValueRef::Integer(*integer),
            Cell::Text(text) | Cell::Json(text) => ValueRef::Text(text.as_bytes()),
            Cell::Shared(text) => ValueRef::Text(text),
            Cell::Id(id) => ValueRef::Blob(id),
            Cell::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Converts a count to a database integer. No count here comes near its maximum: sizes are bounded by their
/// types, and versions and sequences count commits.
pub(super) fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Reads an upload from [`UPLOAD_COLUMNS`].
pub(super) fn upload(row: &Row<'_>) -> rusqlite::Result<Upload> {
    let mut columns = Columns::of(row);
    UploadRow::read_upload(&mut columns)?.map_err(|Incoherent(column)| unreadable(row, column))
}

/// Reads one of several uploads, starting with its identifier. A row that cannot be read is logged and hides
/// no other.
pub(super) fn one_of_uploads(row: &Row<'_>) -> rusqlite::Result<(UploadId, Option<Upload>)> {
    let id = row.get("id").map(UploadId::from_bytes)?;
    match upload(row) {
        Ok(upload) => Ok((id, Some(upload))),
        Err(error @ rusqlite::Error::FromSqlConversionFailure(..)) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(upload = %id, error, "the record of an upload cannot be read and is skipped");
            Ok((id, None))
        }
        Err(error) => Err(error),
    }
}

/// Reads an endpoint from the columns of its table.
pub(super) fn endpoint(columns: &mut Columns<'_>) -> rusqlite::Result<Endpoint> {
    let endpoint = EndpointRow::read(columns)?;
    endpoint.try_into().map_err(|Incoherent(column)| unreadable(columns.row, column))
}

/// Reads an event from [`EVENT_COLUMNS`].
pub(super) fn logged_event(row: &Row<'_>) -> rusqlite::Result<LoggedEvent> {
    let mut columns = Columns::of(row);
    let position = EventPosition(columns.next()?);
    EventRow::read(&mut columns)?.of_upload(position).ok_or_else(|| unreadable(row, "upload_id"))
}

/// Reads a row of a table from its columns.
pub(super) fn read<R: state_rows::Row>(row: &Row<'_>) -> rusqlite::Result<R> {
    R::read(&mut Columns::of(row))
}

/// The error for a column with a value that this program does not write.
#[derive(Debug, thiserror::Error)]
#[error("column {0} has an unknown value")]
struct UnreadableRow(String);

fn unreadable(row: &Row<'_>, column: &str) -> rusqlite::Error {
    let place = row.as_ref().column_index(column).unwrap_or_default();
    unreadable_at(row, place)
}

fn unreadable_at(row: &Row<'_>, place: usize) -> rusqlite::Error {
    let column = UnreadableRow(row.as_ref().column_name(place).unwrap_or("without a name").to_owned());
    let kind = row.get_ref(place).map_or(Type::Null, |value| value.data_type());
    rusqlite::Error::FromSqlConversionFailure(place, kind, Box::new(column))
}

/// The columns of a row, read from left to right.
#[derive(Debug)]
pub(super) struct Columns<'row> {
    row: &'row Row<'row>,
    next: usize,
}

impl Source for Columns<'_> {
    type Error = rusqlite::Error;

    fn next<T: FromCell>(&mut self) -> rusqlite::Result<T> {
        self.read()
    }
}

impl<'row> Columns<'row> {
    pub(super) fn of(row: &'row Row<'row>) -> Self {
        Self { row, next: 0 }
    }

    fn read<T: FromCell>(&mut self) -> rusqlite::Result<T> {
        let place = self.next;
        self.next += 1;
        let cell = match self.row.get_ref(place)? {
            ValueRef::Null => Some(CellRef::Null),
            ValueRef::Integer(integer) => Some(CellRef::Integer(integer)),
            ValueRef::Text(text) => std::str::from_utf8(text).ok().map(CellRef::Text),
            ValueRef::Blob(bytes) => Some(CellRef::Bytes(bytes)),
            ValueRef::Real(_) => None,
        };
        cell.and_then(T::from_cell).ok_or_else(|| unreadable_at(self.row, place))
    }

    pub(super) fn next<T: FromCell>(&mut self) -> rusqlite::Result<T> {
        self.read()
    }

    pub(super) fn named<T>(&mut self, by_name: fn(&str) -> Option<T>) -> rusqlite::Result<T> {
        let name: String = self.read()?;
        by_name(&name).ok_or_else(|| unreadable_at(self.row, self.next - 1))
    }
}
