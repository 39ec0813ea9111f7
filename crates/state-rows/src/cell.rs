//! Values of columns.

use std::borrow::Cow;

use bytes::Bytes;

/// A value to be written into a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Flag(bool),
    Integer(i64),
    Text(Cow<'static, str>),
    /// JSON as text. Databases with a JSON type may store it as such.
    Json(Cow<'static, str>),
    /// UTF-8 text in a shared buffer.
    Shared(Bytes),
    /// A UUID.
    Id([u8; 16]),
    Bytes(Vec<u8>),
}

/// A value read from a column. A flag is read as 0 or 1, JSON as its text, an identifier as its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CellRef<'row> {
    Null,
    Integer(i64),
    Text(&'row str),
    Bytes(&'row [u8]),
}

/// A value that can be written into a column.
pub trait ToCell {
    fn to_cell(&self) -> Cell;
}

/// A value that can be read from a column.
pub trait FromCell: Sized {
    /// Returns `None` for values that [`ToCell`] does not write.
    fn from_cell(cell: CellRef<'_>) -> Option<Self>;
}

impl<T: ToCell> ToCell for Option<T> {
    fn to_cell(&self) -> Cell {
        self.as_ref().map_or(Cell::Null, T::to_cell)
    }
}

impl<T: FromCell> FromCell for Option<T> {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        match cell {
            CellRef::Null => Some(None),
            filled => T::from_cell(filled).map(Some),
        }
    }
}

impl<T: ToCell + ?Sized> ToCell for &T {
    fn to_cell(&self) -> Cell {
        T::to_cell(self)
    }
}

impl ToCell for bool {
    fn to_cell(&self) -> Cell {
        Cell::Flag(*self)
    }
}

impl FromCell for bool {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        match cell {
            CellRef::Integer(flag) => Some(flag != 0),
            CellRef::Null | CellRef::Text(_) | CellRef::Bytes(_) => None,
        }
    }
}

impl ToCell for u64 {
    /// No count here comes near the maximum of a database integer: sizes are bounded by their types, and
    /// versions and sequences count commits.
    fn to_cell(&self) -> Cell {
        Cell::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

macro_rules! integers {
    ($($type:ty)*) => {
        $(impl FromCell for $type {
            fn from_cell(cell: CellRef<'_>) -> Option<Self> {
                match cell {
                    CellRef::Integer(integer) => Self::try_from(integer).ok(),
                    CellRef::Null | CellRef::Text(_) | CellRef::Bytes(_) => None,
                }
            }
        })*
    };
}
integers!(i64 u64 u32 u16 u8);

macro_rules! small_integers {
    ($($type:ty)*) => {
        $(impl ToCell for $type {
            fn to_cell(&self) -> Cell {
                Cell::Integer(i64::from(*self))
            }
        })*
    };
}
small_integers!(i64 u32 u16 u8);

impl ToCell for str {
    fn to_cell(&self) -> Cell {
        Cell::Text(Cow::Owned(self.to_owned()))
    }
}

impl ToCell for String {
    fn to_cell(&self) -> Cell {
        self.as_str().to_cell()
    }
}

impl FromCell for String {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        text(cell).map(str::to_owned)
    }
}

/// The body of an event: JSON that is sent byte for byte, so it is stored as text.
impl ToCell for Bytes {
    fn to_cell(&self) -> Cell {
        Cell::Shared(self.clone())
    }
}

impl FromCell for Bytes {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        String::from_cell(cell).map(Self::from)
    }
}

impl ToCell for Vec<u8> {
    fn to_cell(&self) -> Cell {
        Cell::Bytes(self.clone())
    }
}

impl FromCell for Vec<u8> {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        bytes(cell).map(<[u8]>::to_vec)
    }
}

impl ToCell for [u8; 16] {
    fn to_cell(&self) -> Cell {
        Cell::Id(*self)
    }
}

impl FromCell for [u8; 16] {
    fn from_cell(cell: CellRef<'_>) -> Option<Self> {
        bytes(cell)?.try_into().ok()
    }
}

pub(crate) fn text(cell: CellRef<'_>) -> Option<&str> {
    match cell {
        CellRef::Text(text) => Some(text),
        CellRef::Null | CellRef::Integer(_) | CellRef::Bytes(_) => None,
    }
}

pub(crate) fn bytes(cell: CellRef<'_>) -> Option<&[u8]> {
    match cell {
        CellRef::Bytes(bytes) => Some(bytes),
        CellRef::Null | CellRef::Integer(_) | CellRef::Text(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_written_is_not_read() {
        assert_eq!(u64::from_cell(CellRef::Integer(-1)), None);
        assert_eq!(u16::from_cell(CellRef::Integer(65_536)), None);
        assert_eq!(<[u8; 16]>::from_cell(CellRef::Bytes(&[0; 15])), None);
        assert_eq!(String::from_cell(CellRef::Null), None);
        assert_eq!(Option::<String>::from_cell(CellRef::Null), Some(None));
        assert_eq!(Option::<String>::from_cell(CellRef::Integer(1)), None);
    }
}
