//! Values of statements. Each value carries its type, so statements need no preparation. This works behind a
//! connection pooler, and a statement about several days is planned for its actual values, which excludes
//! partitions.

use std::borrow::Cow;
use std::error::Error;

use bytes::BytesMut;
use state_rows::Cell;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::bucket::bucket_of;
use crate::text::escape;
use domain::endpoint::EndpointId;
use domain::id::{DeliveryId, EventId, HookCallId, InstanceId, ReplayId, UploadId};
use domain::log::EventPosition;
use domain::time::Timestamp;

/// The value of a placeholder `$n`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Param {
    Flag(Option<bool>),
    Integer(Option<i64>),
    Text(Option<Text>),
    Id(Option<Uuid>),
    Bytes(Option<Vec<u8>>),
    Flags(Vec<Option<bool>>),
    Integers(Vec<Option<i64>>),
    Texts(Vec<Option<Text>>),
    Ids(Vec<Option<Uuid>>),
    ByteStrings(Vec<Option<Vec<u8>>>),
}

impl Param {
    pub(crate) const fn sql_type(&self) -> Type {
        match self {
            Self::Flag(_) => Type::BOOL,
            Self::Integer(_) => Type::INT8,
            Self::Text(_) => Type::TEXT,
            Self::Id(_) => Type::UUID,
            Self::Bytes(_) => Type::BYTEA,
            Self::Flags(_) => Type::BOOL_ARRAY,
            Self::Integers(_) => Type::INT8_ARRAY,
            Self::Texts(_) => Type::TEXT_ARRAY,
            Self::Ids(_) => Type::UUID_ARRAY,
            Self::ByteStrings(_) => Type::BYTEA_ARRAY,
        }
    }

    pub(crate) fn as_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Flag(value) => value,
            Self::Integer(value) => value,
            Self::Text(value) => value,
            Self::Id(value) => value,
            Self::Bytes(value) => value,
            Self::Flags(values) => values,
            Self::Integers(values) => values,
            Self::Texts(values) => values,
            Self::Ids(values) => values,
            Self::ByteStrings(values) => values,
        }
    }

    /// Returns the bucket of an identifier as a value.
    pub(crate) fn bucket(id: &[u8; 16]) -> Self {
        Self::Integer(Some(bucket_of(id)))
    }
}

/// The type of a column, as far as writing it requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Flag,
    Integer,
    Text,
    Id,
    Bytes,
}

impl Kind {
    /// Returns the kind of a column. Columns of one name have the same type in every table, except the names
    /// of endpoints.
    pub(crate) fn of(table: &str, column: &str) -> Self {
        match column {
            "id" if table == "endpoints" => Self::Text,
            "id" | "upload_id" | "source_id" | "event_id" | "delivery_id" | "holder" | "commit_id" | "lease"
            | "claimed_by" | "instance" => Self::Id,
            "running_digests" | "resume" | "sealed" | "response_body" | "value" => Self::Bytes,
            "bytes_kept" | "present" | "is_full" => Self::Flag,
            "bucket"
            | "tenant"
            | "version"
            | "epoch"
            | "lease_generation"
            | "length"
            | "failure_status"
            | "next_sequence"
            | "last_progress_offset"
            | "max_bytes"
            | "width"
            | "height"
            | "sequence"
            | "position"
            | "event_position"
            | "attempts"
            | "attempts_before"
            | "generation"
            | "number"
            | "status"
            | "consecutive_failures"
            | "exhausted"
            | "warned_percent"
            | "cursor"
            | "queued" => Self::Integer,
            name if name.ends_with("_ms") || name.ends_with("_us") => Self::Integer,
            _ => Self::Text,
        }
    }

    /// Converts one cell. A cell of the wrong type becomes null, which a `NOT NULL` column rejects.
    pub(crate) fn param(self, cell: &Cell) -> Param {
        match self {
            Self::Flag => Param::Flag(flag(cell)),
            Self::Integer => Param::Integer(integer(cell)),
            Self::Text => Param::Text(text(cell)),
            Self::Id => Param::Id(id(cell)),
            Self::Bytes => Param::Bytes(bytes(cell)),
        }
    }

    /// Converts one column of many rows.
    pub(crate) fn array<'c>(self, cells: impl Iterator<Item = &'c Cell>) -> Param {
        match self {
            Self::Flag => Param::Flags(cells.map(flag).collect()),
            Self::Integer => Param::Integers(cells.map(integer).collect()),
            Self::Text => Param::Texts(cells.map(text).collect()),
            Self::Id => Param::Ids(cells.map(id).collect()),
            Self::Bytes => Param::ByteStrings(cells.map(bytes).collect()),
        }
    }
}

fn flag(cell: &Cell) -> Option<bool> {
    match cell {
        Cell::Flag(flag) => Some(*flag),
        _ => None,
    }
}

fn integer(cell: &Cell) -> Option<i64> {
    match cell {
        Cell::Integer(integer) => Some(*integer),
        _ => None,
    }
}

fn text(cell: &Cell) -> Option<Text> {
    match cell {
        Cell::Text(text) | Cell::Json(text) => Some(Text(text.clone())),
        Cell::Shared(text) => std::str::from_utf8(text).ok().map(|text| Text(Cow::Owned(text.to_owned()))),
        _ => None,
    }
}

fn id(cell: &Cell) -> Option<Uuid> {
    match cell {
        Cell::Id(id) => Some(Uuid(*id)),
        _ => None,
    }
}

fn bytes(cell: &Cell) -> Option<Vec<u8>> {
    match cell {
        Cell::Bytes(bytes) => Some(bytes.clone()),
        _ => None,
    }
}

/// An identifier in PostgreSQL's binary format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uuid(pub(crate) [u8; 16]);

impl ToSql for Uuid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(sql_type: &Type) -> bool {
        *sql_type == Type::UUID
    }

    to_sql_checked!();
}

/// Text, which is escaped when it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) Cow<'static, str>);

impl ToSql for Text {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(escape(&self.0).as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(sql_type: &Type) -> bool {
        *sql_type == Type::TEXT
    }

    to_sql_checked!();
}

macro_rules! ids {
    ($($id:ty)*) => {
        $(impl From<&$id> for Param {
            fn from(id: &$id) -> Self {
                Self::Id(Some(Uuid(*id.as_bytes())))
            }
        }

        impl From<$id> for Param {
            fn from(id: $id) -> Self {
                Self::from(&id)
            }
        }

        impl From<Option<$id>> for Param {
            fn from(id: Option<$id>) -> Self {
                Self::Id(id.map(|id| Uuid(*id.as_bytes())))
            }
        }

        impl From<Vec<$id>> for Param {
            fn from(ids: Vec<$id>) -> Self {
                Self::Ids(ids.iter().map(|id| Some(Uuid(*id.as_bytes()))).collect())
            }
        })*
    };
}
ids!(UploadId EventId DeliveryId ReplayId HookCallId InstanceId);

impl From<[u8; 16]> for Param {
    fn from(id: [u8; 16]) -> Self {
        Self::Id(Some(Uuid(id)))
    }
}

impl From<Vec<[u8; 16]>> for Param {
    fn from(ids: Vec<[u8; 16]>) -> Self {
        Self::Ids(ids.into_iter().map(|id| Some(Uuid(id))).collect())
    }
}

impl From<bool> for Param {
    fn from(flag: bool) -> Self {
        Self::Flag(Some(flag))
    }
}

impl From<i64> for Param {
    fn from(integer: i64) -> Self {
        Self::Integer(Some(integer))
    }
}

impl From<Option<i64>> for Param {
    fn from(integer: Option<i64>) -> Self {
        Self::Integer(integer)
    }
}

impl From<u32> for Param {
    fn from(integer: u32) -> Self {
        Self::Integer(Some(i64::from(integer)))
    }
}

/// No count here comes near the maximum of a database integer.
impl From<u64> for Param {
    fn from(integer: u64) -> Self {
        Self::Integer(Some(i64::try_from(integer).unwrap_or(i64::MAX)))
    }
}

impl From<Vec<i64>> for Param {
    fn from(integers: Vec<i64>) -> Self {
        Self::Integers(integers.into_iter().map(Some).collect())
    }
}

impl From<Timestamp> for Param {
    fn from(at: Timestamp) -> Self {
        Self::Integer(Some(at.unix_ms()))
    }
}

impl From<Option<Timestamp>> for Param {
    fn from(at: Option<Timestamp>) -> Self {
        Self::Integer(at.map(Timestamp::unix_ms))
    }
}

impl From<EventPosition> for Param {
    fn from(position: EventPosition) -> Self {
        Self::Integer(Some(position.0))
    }
}

impl From<&'static str> for Param {
    fn from(text: &'static str) -> Self {
        Self::Text(Some(Text(Cow::Borrowed(text))))
    }
}

impl From<String> for Param {
    fn from(text: String) -> Self {
        Self::Text(Some(Text(Cow::Owned(text))))
    }
}

impl From<Option<String>> for Param {
    fn from(text: Option<String>) -> Self {
        Self::Text(text.map(|text| Text(Cow::Owned(text))))
    }
}

impl From<Vec<String>> for Param {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts.into_iter().map(|text| Some(Text(Cow::Owned(text)))).collect())
    }
}

impl From<&EndpointId> for Param {
    fn from(endpoint: &EndpointId) -> Self {
        Self::from(endpoint.as_str().to_owned())
    }
}

impl From<Vec<u8>> for Param {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Some(bytes))
    }
}

/// Creates the values of a statement, in order.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::params::Param::from($value)),*]
    };
}
pub(crate) use params;
