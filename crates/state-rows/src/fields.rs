//! Conversions between domain types and cells.
//!
//! Lists are JSON, so that any tool can read a row; states of machines are bytes.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::checksum::{Algorithm, Digest};
use domain::delivery::{AttemptTrigger, DeliveryState, ReplaySelection};
use domain::dialect::Dialect;
use domain::endpoint::{DisabledBecause, EndpointId, EndpointTerms, Origin};
use domain::event::EventKind;
use domain::facts::Facts;
use domain::failure::RejectionKind;
use domain::generation::{Generation, Generations, Sealed};
use domain::hook::{CallOutcome, Hook};
use domain::id::{CommitId, DeliveryId, EventId, HookCallId, InstanceId, ReplayId, UploadId};
use domain::log::EventPosition;
use domain::metadata::Metadata;
use domain::node::Epoch;
use domain::principal::TenantId;
use domain::ranges::ReceivedRanges;
use domain::removal::DeletedBy;
use domain::replay::ReplayState;
use domain::report::Report;
use domain::size::{Length, Offset};
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::write_rules::{Completion, WriteOrder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cell::{Cell, CellRef, FromCell, ToCell, text};
use crate::{stored_facts, stored_terms};

macro_rules! ids {
    ($($id:ty)*) => {
        $(impl ToCell for $id {
            fn to_cell(&self) -> Cell {
                Cell::Id(*self.as_bytes())
            }
        }

        impl FromCell for $id {
            fn from_cell(cell: CellRef<'_>) -> Option<Self> {
                <[u8; 16]>::from_cell(cell).map(Self::from_bytes)
            }
        })*
    };
}
ids!(UploadId EventId DeliveryId ReplayId HookCallId InstanceId CommitId);

macro_rules! names {
    ($($type:ty)*) => {
        $(impl ToCell for $type {
            fn to_cell(&self) -> Cell {
                Cell::Text(Cow::Borrowed(self.name()))
            }
        }

        impl FromCell for $type {
            fn from_cell(cell: CellRef<'_>) -> Option<Self> {
                Self::by_name(text(cell)?)
            }
        })*
    };
}
names!(Stage WriteOrder Completion EventKind DeletedBy DeliveryState AttemptTrigger Origin DisabledBecause);
names!(Hook CallOutcome ReplaySelection ReplayState);

impl ToCell for Dialect {
    fn to_cell(&self) -> Cell {
        Cell::Text(self.name().to_owned().into())
    }
}

impl FromCell for Dialect {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        Self::by_name(text(cell)?)
    }
}

/// Numbers in the column `failure_status`, which is older than the kinds of rejections.
const REJECTION_STATUSES: [(RejectionKind, i64); RejectionKind::ALL.len()] = [
    (RejectionKind::Malformed, 400),
    (RejectionKind::Unauthenticated, 401),
    (RejectionKind::UnpaidFor, 402),
    (RejectionKind::Forbidden, 403),
    (RejectionKind::Unknown, 404),
    (RejectionKind::Unacceptable, 406),
    (RejectionKind::Gone, 410),
    (RejectionKind::TooLarge, 413),
    (RejectionKind::WrongType, 415),
    (RejectionKind::Unprocessable, 422),
    (RejectionKind::Unlawful, 451),
];

impl ToCell for RejectionKind {
    fn to_cell(&self) -> Cell {
        REJECTION_STATUSES
            .into_iter()
            .find(|(kind, _)| kind == self)
            .map_or(Cell::Null, |(_, number)| Cell::Integer(number))
    }
}

impl FromCell for RejectionKind {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        let number = i64::from_cell(cell)?;
        REJECTION_STATUSES.into_iter().find(|(_, known)| *known == number).map(|(kind, _)| kind)
    }
}

impl ToCell for TenantId {
    fn to_cell(&self) -> Cell {
        Cell::Integer(i64::from(self.number()))
    }
}

impl FromCell for TenantId {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        u32::from_cell(cell).map(Self::from_number)
    }
}

/// The name of a value whose type is spread over several columns.
pub(crate) struct TypeName(pub(crate) &'static str);

impl ToCell for TypeName {
    fn to_cell(&self) -> Cell {
        Cell::Text(Cow::Borrowed(self.0))
    }
}

impl ToCell for EndpointId {
    fn to_cell(&self) -> Cell {
        self.as_str().to_cell()
    }
}

impl FromCell for EndpointId {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        Self::new(text(cell)?)
    }
}

impl ToCell for Timestamp {
    fn to_cell(&self) -> Cell {
        Cell::Integer(self.unix_ms())
    }
}

impl FromCell for Timestamp {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        i64::from_cell(cell).map(Self::from_unix_ms)
    }
}

impl ToCell for EventPosition {
    fn to_cell(&self) -> Cell {
        Cell::Integer(self.0)
    }
}

impl FromCell for EventPosition {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        i64::from_cell(cell).map(Self)
    }
}

/// A duration in whole microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Micros(pub Duration);

impl ToCell for Micros {
    fn to_cell(&self) -> Cell {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX).to_cell()
    }
}

impl FromCell for Micros {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        u64::from_cell(cell).map(Duration::from_micros).map(Self)
    }
}

impl ToCell for Length {
    fn to_cell(&self) -> Cell {
        self.get().to_cell()
    }
}

impl FromCell for Length {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        u64::from_cell(cell).and_then(Self::new)
    }
}

impl ToCell for Offset {
    fn to_cell(&self) -> Cell {
        self.get().to_cell()
    }
}

impl FromCell for Offset {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        u64::from_cell(cell).and_then(Self::new)
    }
}

impl ToCell for ReceivedRanges {
    fn to_cell(&self) -> Cell {
        list_json(self.pairs())
    }
}

impl FromCell for ReceivedRanges {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        list::<(u64, u64)>(cell).map(Self::from_pairs)
    }
}

/// `[[1,1048576],[3,null]]`: each generation and the end of its bytes. A negative number is that of a joined
/// generation. If two have no end, the upload is being joined into the second of them. NULL for an upload
/// that stays in its first generation.
impl ToCell for Generations {
    fn to_cell(&self) -> Cell {
        if *self == Self::default() {
            return Cell::Null;
        }
        let integer = |epoch: Epoch| i64::try_from(epoch.get()).unwrap_or(i64::MAX);
        let number = |generation| match generation {
            Generation::Begun(epoch) => integer(epoch),
            Generation::Joined(epoch) => -integer(epoch),
        };
        let sealed = self.sealed().iter().map(|sealed| (number(sealed.generation), Some(sealed.end)));
        let joining = self.joining().map(|epoch| (number(Generation::Joined(epoch)), None));
        list_json(&sealed.chain([(number(self.current()), None)]).chain(joining).collect::<Vec<_>>())
    }
}

impl FromCell for Generations {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        if cell == CellRef::Null {
            return Some(Self::default());
        }
        let mut all: Vec<(i64, Option<u64>)> = list(cell)?;
        let generation = |number: i64| {
            let epoch = Epoch::new(number.unsigned_abs());
            if number < 0 { Generation::Joined(epoch) } else { Generation::Begun(epoch) }
        };
        let (last, None) = all.pop()? else { return None };
        let (current, joining) = match all.pop_if(|(_, end)| end.is_none()) {
            None => (generation(last), None),
            Some((current, _)) => match generation(last) {
                Generation::Joined(epoch) => (generation(current), Some(epoch)),
                Generation::Begun(_) => return None,
            },
        };
        let sealed = all.into_iter().map(|(number, end)| Some(Sealed { generation: generation(number), end: end? }));
        Self::from_parts(sealed.collect::<Option<_>>()?, current, joining)
    }
}

impl ToCell for Vec<Algorithm> {
    fn to_cell(&self) -> Cell {
        list_json(&self.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>())
    }
}

impl FromCell for Vec<Algorithm> {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        list::<String>(cell)?.iter().map(|name| Algorithm::by_name(name)).collect()
    }
}

impl ToCell for Vec<Digest> {
    fn to_cell(&self) -> Cell {
        list_json(&self.iter().map(|digest| (digest.algorithm().name(), digest.hex())).collect::<Vec<_>>())
    }
}

impl FromCell for Vec<Digest> {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        let digests = list::<(String, String)>(cell)?.into_iter();
        digests.map(|(name, hex)| Digest::new(Algorithm::by_name(&name)?, bytes_of_hex(&hex)?)).collect()
    }
}

/// The timeline of an upload.
impl ToCell for Vec<(Stage, Timestamp)> {
    fn to_cell(&self) -> Cell {
        list_json(&self.iter().map(|(stage, at)| (stage.name(), at.unix_ms())).collect::<Vec<_>>())
    }
}

impl FromCell for Vec<(Stage, Timestamp)> {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        let entries = list::<(String, i64)>(cell)?.into_iter();
        entries.map(|(name, at)| Some((Stage::by_name(&name)?, Timestamp::from_unix_ms(at)))).collect()
    }
}

/// The parts of a final upload.
impl ToCell for Vec<UploadId> {
    fn to_cell(&self) -> Cell {
        list_json(&self.iter().map(ToString::to_string).collect::<Vec<_>>())
    }
}

impl FromCell for Vec<UploadId> {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        list::<String>(cell)?.iter().map(|id| id.parse().ok()).collect()
    }
}

impl ToCell for Metadata {
    fn to_cell(&self) -> Cell {
        list_json(&self.pairs().iter().map(|(name, value)| (name, value_json(value))).collect::<Vec<_>>())
    }
}

impl FromCell for Metadata {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        let pairs = list::<(String, Value)>(cell)?.into_iter();
        let pairs: Option<Vec<_>> = pairs.map(|(name, value)| Some((name, value_bytes(value)?))).collect();
        Self::new(pairs?).ok()
    }
}

impl ToCell for Facts {
    fn to_cell(&self) -> Cell {
        Cell::Json(Cow::Owned(stored_facts::write(self)))
    }
}

impl FromCell for Facts {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        stored_facts::read(text(cell)?)
    }
}

impl ToCell for EndpointTerms {
    fn to_cell(&self) -> Cell {
        Cell::Json(Cow::Owned(stored_terms::write(self)))
    }
}

impl FromCell for EndpointTerms {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        stored_terms::read(text(cell)?)
    }
}

/// The reports of backends; NULL if there are none.
impl ToCell for [Report] {
    fn to_cell(&self) -> Cell {
        if self.is_empty() {
            return Cell::Null;
        }
        let report = |report: &Report| {
            let Report { name, percent, message, at, published_at } = report;
            json!([name, percent, message, at.unix_ms(), published_at.unix_ms()])
        };
        list_json(&self.iter().map(report).collect::<Vec<_>>())
    }
}

/// Name, percentage, message, time of the report, and time of the last event about it.
type StoredReport = (String, Option<u8>, Option<String>, i64, i64);

impl FromCell for Vec<Report> {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        let reports = Option::<String>::from_cell(cell)?.map(|text| serde_json::from_str(&text).ok());
        let reports: Vec<StoredReport> = reports.unwrap_or_else(|| Some(Vec::new()))?;
        let report = |(name, percent, message, at_ms, published_at_ms): StoredReport| {
            let (at, published_at) = (Timestamp::from_unix_ms(at_ms), Timestamp::from_unix_ms(published_at_ms));
            Report { name, percent, message, at, published_at }
        };
        Some(reports.into_iter().map(report).collect())
    }
}

/// Header fields of a response; NULL if there are none.
impl ToCell for [(String, String)] {
    fn to_cell(&self) -> Cell {
        if self.is_empty() { Cell::Null } else { list_json(self) }
    }
}

impl FromCell for Vec<(String, String)> {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        match cell {
            CellRef::Null => Some(Self::new()),
            filled => list(filled),
        }
    }
}

fn list_json<T: Serialize>(values: &[T]) -> Cell {
    Cell::Json(match values {
        [] => Cow::Borrowed("[]"),
        some => Cow::Owned(serde_json::to_string(some).expect("lists of strings and numbers are always JSON")),
    })
}

fn list<T: DeserializeOwned>(cell: CellRef<'_>) -> Option<Vec<T>> {
    match text(cell)? {
        "[]" => Some(Vec::new()),
        text => serde_json::from_str(text).ok(),
    }
}

fn bytes_of_hex(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok())).collect();
    digits.map(|digits| digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

/// Converts a value of metadata: a string if it is UTF-8, otherwise `{"base64": "…"}`.
fn value_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// Converts in the opposite direction of [`value_json`].
fn value_bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.into_bytes()),
        other => STANDARD.decode(other.get("base64")?.as_str()?).ok(),
    }
}
