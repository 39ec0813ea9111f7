//! The rows of the state's tables, described once for every SQL database.
//!
//! Owns, for each table, its name, its columns in one order, and the domain value in each column (`table`);
//! the conversions between domain types and cells (`cell`, `fields`); the statements that follow from a
//! description ([`sql`]); and the plan of a list of uploads ([`listing`]). An adapter binds [`Cell`]s to its
//! driver, provides columns as a [`Source`], and defines all its other statements.
//!
//! Promises: a row written by a description reads back equal; any other value is an error of its column,
//! never a guess. To add a column: a migration in each adapter, one line in the table's description, and the
//! field in its conversion.
//!
//! Must not know: a driver, or anything that only one database understands.

mod cell;
mod deliveries;
mod endpoints;
mod events;
mod fields;
mod hook_calls;
pub mod listing;
mod replays;
pub mod sql;
mod stored_facts;
mod stored_terms;
mod table;
mod transfer;
mod uploads;

pub use cell::{Cell, CellRef, FromCell, ToCell};
pub use deliveries::{AttemptRow, DeliveryRow};
pub use endpoints::EndpointRow;
pub use events::EventRow;
pub use fields::Micros;
pub use hook_calls::HookCallRow;
pub use replays::ReplayRow;
pub use table::{Row, Source};
pub use transfer::{BatchEnd, LastNumbers, MoveRecord, MovedTable, RowBatch};
pub use uploads::{Incoherent, OriginRow, UploadRow};
