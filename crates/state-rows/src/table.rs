//! Descriptions of tables.

use crate::cell::FromCell;

/// One row of a table, column by column.
pub trait Row: Sized {
    const TABLE: &'static str;
    /// The columns in the order in which [`Self::read`] expects them and the cells of a row are listed.
    const COLUMNS: &'static [&'static str];
    /// The columns that identify a row.
    const KEY: &'static [&'static str];

    /// Reads the columns from left to right.
    fn read<S: Source>(source: &mut S) -> Result<Self, S::Error>;
}

/// The columns of a row as a driver provides them, from left to right.
pub trait Source {
    type Error;

    /// Reads the next column. An unreadable value is an error that names the column.
    fn next<T: FromCell>(&mut self) -> Result<T, Self::Error>;
}

/// Describes a table: one line for each column, with its type when read and the expression that is written.
///
/// Defines the struct of a row, its [`Row`] implementation, and `cells`, which returns the cells of a row in
/// the order of the columns.
macro_rules! table {
    (
        $(#[$doc:meta])*
        $vis:vis struct $row:ident in $table:literal, key ($($key:ident),+), of ($($argument:ident: $given:ty),+) {
            $($(#[$note:meta])* $column:ident: $type:ty = $value:expr;)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $row {
            $($(#[$note])* $vis $column: $type,)+
        }

        impl $row {
            /// The number of columns.
            $vis const COUNT: usize = [$(stringify!($column)),+].len();

            /// Returns the cells of the row to be written.
            $vis fn cells($($argument: $given),+) -> [$crate::cell::Cell; Self::COUNT] {
                [$($crate::cell::ToCell::to_cell(&$value)),+]
            }
        }

        impl $crate::table::Row for $row {
            const TABLE: &'static str = $table;
            const COLUMNS: &'static [&'static str] = &[$(stringify!($column)),+];
            const KEY: &'static [&'static str] = &[$(stringify!($key)),+];

            fn read<S: $crate::table::Source>(source: &mut S) -> Result<Self, S::Error> {
                Ok(Self { $($column: source.next()?,)+ })
            }
        }
    };
}
pub(crate) use table;
