//! Descriptions of tables.

use crate::cell::FromCell;

/// One row of a table, column by column.
pub trait Row: Sized {
    const TABLE: &'static str;
    /// In the order in which [`Self::read`] expects them and the cells of a row come.
    const COLUMNS: &'static [&'static str];
    /// The columns that name a row.
    const KEY: &'static [&'static str];

    /// Reads the columns from the left.
    fn read<S: Source>(source: &mut S) -> Result<Self, S::Error>;
}

/// The columns of a row as a driver has them, handed over from the left.
pub trait Source {
    type Error;

    /// Reads the next column. What cannot be read is an error that names the column.
    fn next<T: FromCell>(&mut self) -> Result<T, Self::Error>;
}

/// Describes a table: a line for each column, with its type when it is
/// read and what is written of the arguments.
///
/// Makes the struct of a row, its [`Row`], and `cells`, which gives the
/// cells of a row in the order of the columns.
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
            /// How many columns there are.
            $vis const COUNT: usize = [$(stringify!($column)),+].len();

            /// Gives the cells of the row that is written.
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
