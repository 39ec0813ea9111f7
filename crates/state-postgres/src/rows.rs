//! Rows in PostgreSQL: columns read from left to right, and cells converted to values.
//!
//! [`state_rows`] describes the columns and their contents. The columns of an upload are stored in two
//! tables: see [`UPLOAD_COLUMNS`].

use std::error::Error;
use std::sync::LazyLock;

use state_rows::{Cell, CellRef, EndpointRow, EventRow, FromCell, Incoherent, OriginRow, Row as _, Source, UploadRow};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::fault::Fault;
use crate::params::{Kind, Param};
use crate::text::unescape;
use domain::endpoint::Endpoint;
use domain::id::UploadId;
use domain::log::{EventPosition, LoggedEvent};
use domain::upload::Upload;

/// The columns of an upload in `upload_progress`: those that a checkpoint writes.
pub(crate) const PROGRESS_COLUMNS: [&str; 14] = [
    "id",
    "version",
    "epoch",
    "lease_generation",
    "holder",
    "commit_id",
    "received",
    "running_digests",
    "resume",
    "updated_at_ms",
    "expires_at_ms",
    "next_sequence",
    "last_progress_offset",
    "last_progress_at_ms",
];

/// The columns of an upload in both of its tables, as [`upload`] reads them.
pub(crate) static UPLOAD_COLUMNS: LazyLock<String> = LazyLock::new(|| {
    let columns = UploadRow::COLUMNS.iter().chain(OriginRow::COLUMNS);
    let placed: Vec<String> = columns
        .map(|column| {
            let is_progress = *column != "id" && PROGRESS_COLUMNS.contains(column);
            format!("{}.{column}", if is_progress { "upload_progress" } else { "uploads" })
        })
        .collect();
    placed.join(", ")
});

/// Both tables of uploads, joined.
pub(crate) const UPLOAD_TABLES: &str = "uploads JOIN upload_progress USING (id, bucket)";

/// The columns of an event, as [`logged_event`] reads them.
pub(crate) static EVENT_COLUMNS: LazyLock<String> =
    LazyLock::new(|| format!("position, {}", state_rows::sql::columns::<EventRow>()));

/// Converts the cells of one row, in the order of its columns.
pub(crate) fn values<R: state_rows::Row>(cells: &[Cell]) -> Vec<Param> {
    R::COLUMNS.iter().zip(cells).map(|(column, cell)| Kind::of(R::TABLE, column).param(cell)).collect()
}

/// Reads an upload from [`UPLOAD_COLUMNS`].
pub(crate) fn upload(row: &Row) -> Result<Upload, Fault> {
    let mut columns = Columns::of(row);
    UploadRow::read_upload(&mut columns)?.map_err(|Incoherent(column)| Fault::Unreadable(column.to_owned()))
}

/// Reads one of several uploads, starting with its identifier. A row that cannot be read is logged and hides
/// no other.
pub(crate) fn one_of_uploads(row: &Row) -> Result<(UploadId, Option<Upload>), Fault> {
    let id: UploadId = Columns::of(row).next()?;
    match upload(row) {
        Ok(upload) => Ok((id, Some(upload))),
        Err(error @ Fault::Unreadable(_)) => {
            let error = &error as &dyn Error;
            tracing::error!(upload = %id, error, "the record of an upload cannot be read; it is skipped");
            Ok((id, None))
        }
        Err(error) => Err(error),
    }
}

/// Reads an endpoint from the columns of its table.
pub(crate) fn endpoint(columns: &mut Columns<'_>) -> Result<Endpoint, Fault> {
    let endpoint = EndpointRow::read(columns)?;
    endpoint.try_into().map_err(|Incoherent(column)| Fault::Unreadable(column.to_owned()))
}

/// Reads an event from [`EVENT_COLUMNS`].
pub(crate) fn logged_event(row: &Row) -> Result<LoggedEvent, Fault> {
    let mut columns = Columns::of(row);
    let position = EventPosition(columns.next()?);
    EventRow::read(&mut columns)?.of_upload(position).ok_or_else(|| Fault::Unreadable("upload_id".to_owned()))
}

/// Reads a row of a table from its columns.
pub(crate) fn read<R: state_rows::Row>(row: &Row) -> Result<R, Fault> {
    R::read(&mut Columns::of(row))
}

/// The columns of a row, read from left to right.
#[derive(Debug)]
pub(crate) struct Columns<'row> {
    row: &'row Row,
    next: usize,
}

impl Source for Columns<'_> {
    type Error = Fault;

    fn next<T: FromCell>(&mut self) -> Result<T, Fault> {
        self.read()
    }
}

impl<'row> Columns<'row> {
    pub(crate) fn of(row: &'row Row) -> Self {
        Self { row, next: 0 }
    }

    fn read<T: FromCell>(&mut self) -> Result<T, Fault> {
        let place = self.next;
        self.next += 1;
        let found: Option<Raw<'_>> = self.row.try_get(place)?;
        let value = match found {
            None => T::from_cell(CellRef::Null),
            Some(Raw::Integer(integer)) => T::from_cell(CellRef::Integer(integer)),
            Some(Raw::Text(text)) => T::from_cell(CellRef::Text(&unescape(text))),
            Some(Raw::Bytes(bytes)) => T::from_cell(CellRef::Bytes(bytes)),
        };
        value.ok_or_else(|| self.unreadable(place))
    }

    fn unreadable(&self, place: usize) -> Fault {
        Fault::Unreadable(self.row.columns().get(place).map_or("without a name", |column| column.name()).to_owned())
    }

    pub(crate) fn next<T: FromCell>(&mut self) -> Result<T, Fault> {
        self.read()
    }

    pub(crate) fn named<T>(&mut self, by_name: fn(&str) -> Option<T>) -> Result<T, Fault> {
        let name: String = self.read()?;
        by_name(&name).ok_or_else(|| self.unreadable(self.next - 1))
    }
}

/// A value as received.
#[derive(Debug, Clone, Copy)]
enum Raw<'row> {
    Integer(i64),
    Text(&'row str),
    Bytes(&'row [u8]),
}

impl<'row> FromSql<'row> for Raw<'row> {
    fn from_sql(sql_type: &Type, raw: &'row [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(match *sql_type {
            Type::BOOL => Self::Integer(i64::from(bool::from_sql(sql_type, raw)?)),
            Type::INT2 => Self::Integer(i64::from(i16::from_sql(sql_type, raw)?)),
            Type::INT4 => Self::Integer(i64::from(i32::from_sql(sql_type, raw)?)),
            Type::INT8 => Self::Integer(i64::from_sql(sql_type, raw)?),
            Type::TEXT => Self::Text(<&str>::from_sql(sql_type, raw)?),
            _ => Self::Bytes(raw),
        })
    }

    fn accepts(sql_type: &Type) -> bool {
        [Type::BOOL, Type::INT2, Type::INT4, Type::INT8, Type::TEXT, Type::UUID, Type::BYTEA].contains(sql_type)
    }
}
