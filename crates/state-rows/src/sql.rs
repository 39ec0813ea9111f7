//! Statements that follow from the description of a table.

use std::fmt::Write;

use crate::table::Row;

/// The placeholder syntax of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholders {
    /// `?1`, for SQLite.
    Question,
    /// `$1`, for PostgreSQL.
    Dollar,
}

impl Placeholders {
    const fn sign(self) -> char {
        match self {
            Self::Question => '?',
            Self::Dollar => '$',
        }
    }

    /// Returns the placeholder for a column's value in a statement that binds the cells of a whole row.
    ///
    /// # Panics
    ///
    /// If the table has no such column.
    pub fn of<R: Row>(self, column: &str) -> String {
        let place = R::COLUMNS.iter().position(|known| *known == column);
        let place = place.unwrap_or_else(|| panic!("{} has no column {column}", R::TABLE));
        format!("{}{}", self.sign(), place + 1)
    }
}

/// Returns the columns of a table, separated by commas.
pub fn columns<R: Row>() -> String {
    R::COLUMNS.join(", ")
}

/// Returns the statement that inserts a row from its cells.
pub fn insert<R: Row>(placeholders: Placeholders) -> String {
    let places: Vec<String> = R::COLUMNS.iter().map(|column| placeholders.of::<R>(column)).collect();
    format!("INSERT INTO {} ({}) VALUES ({})", R::TABLE, columns::<R>(), places.join(", "))
}

/// Returns the statement that inserts a row from its cells and leaves an existing row unchanged.
pub fn insert_new<R: Row>(placeholders: Placeholders) -> String {
    insert::<R>(placeholders) + " ON CONFLICT DO NOTHING"
}

/// Returns the statement that inserts a row from its cells, or overwrites the row with the same key.
pub fn upsert<R: Row>(placeholders: Placeholders) -> String {
    format!(
        "{} ON CONFLICT ({}) DO UPDATE SET {}",
        insert::<R>(placeholders),
        R::KEY.join(", "),
        assignments::<R>(placeholders)
    )
}

/// Returns the statement that overwrites the row with the same key if `condition` holds for it.
pub fn update<R: Row>(placeholders: Placeholders, condition: &str) -> String {
    let mut sql = format!("UPDATE {} SET {} WHERE ", R::TABLE, assignments::<R>(placeholders));
    for (place, column) in R::KEY.iter().enumerate() {
        let and = if place == 0 { "" } else { " AND " };
        let _ = write!(sql, "{and}{column} = {}", placeholders.of::<R>(column));
    }
    if !condition.is_empty() {
        let _ = write!(sql, " AND {condition}");
    }
    sql
}

/// Returns the assignments of all columns outside the key to their cells.
fn assignments<R: Row>(placeholders: Placeholders) -> String {
    let changing = R::COLUMNS.iter().filter(|column| !R::KEY.contains(column));
    let assigned: Vec<String> = changing.map(|column| format!("{column} = {}", placeholders.of::<R>(column))).collect();
    assigned.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HookCallRow;
    use crate::table::table;

    table! {
        /// A table with a key of two columns.
        struct Sample in "samples", key (one, two), of (count: u32) {
            one: u32 = count;
            value: String = "x";
            two: u32 = count + 1;
        }
    }

    #[test]
    fn statements_name_each_column_once_and_in_order() {
        assert_eq!(
            insert::<Sample>(Placeholders::Question),
            "INSERT INTO samples (one, value, two) VALUES (?1, ?2, ?3)"
        );
        assert_eq!(
            upsert::<Sample>(Placeholders::Dollar),
            "INSERT INTO samples (one, value, two) VALUES ($1, $2, $3) ON CONFLICT (one, two) DO UPDATE SET value = $2"
        );
        assert_eq!(
            update::<Sample>(Placeholders::Question, "value <> 'y'"),
            "UPDATE samples SET value = ?2 WHERE one = ?1 AND two = ?3 AND value <> 'y'"
        );
        assert_eq!(Sample::cells(7).len(), Sample::COUNT);
        assert!(columns::<HookCallRow>().starts_with("id, hook, upload_id, "));
    }

    #[test]
    #[should_panic(expected = "samples has no column three")]
    fn a_column_that_is_not_there_has_no_place() {
        Placeholders::Question.of::<Sample>("three");
    }
}
