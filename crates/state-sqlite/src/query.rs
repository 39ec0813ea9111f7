//! Assembly of SQL from parts, with its bound values.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use domain::principal::TenantScope;
use domain::time::Timestamp;

/// Sorts after every identifier: the start of a list without a cursor.
pub(super) const AFTER_ALL: [u8; 17] = [0xff; 17];

/// Returns the lower bound of all identifiers made at this instant or later: their first 48 bits, in
/// milliseconds.
pub(super) fn first_id_of(at: Timestamp) -> Vec<u8> {
    let unix_ms = at.unix_ms().clamp(0, (1 << 48) - 1);
    unix_ms.to_be_bytes()[2..].to_vec()
}

/// Returns the lowest and the highest tenant number of a scope, so that one statement serves every scope.
pub(super) fn tenants(scope: TenantScope) -> (u32, u32) {
    match scope {
        TenantScope::One(tenant) => (tenant.number(), tenant.number()),
        TenantScope::All => (u32::MIN, u32::MAX),
    }
}

/// A statement under construction. External data is bound as values and never becomes part of the text.
#[derive(Debug)]
pub(super) struct SqlQuery {
    sql: String,
    values: Vec<Value>,
}

impl SqlQuery {
    pub(super) fn new(sql: &'static str) -> Self {
        Self { sql: sql.to_owned(), values: Vec::new() }
    }

    pub(super) fn push(&mut self, sql: &'static str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    pub(super) fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.sql.push('?');
        self.values.push(value.into());
        self
    }

    /// Binds several values, separated by commas.
    pub(super) fn bind_all<V: Into<Value>>(&mut self, values: impl IntoIterator<Item = V>) -> &mut Self {
        for (place, value) in values.into_iter().enumerate() {
            self.push(if place == 0 { "" } else { ", " }).bind(value);
        }
        self
    }

    /// Adds the condition that a column is within a scope.
    pub(super) fn within(&mut self, column: &'static str, scope: TenantScope) -> &mut Self {
        let (least, most) = tenants(scope);
        self.push(column).push(" BETWEEN ").bind(least).push(" AND ").bind(most)
    }

    pub(super) fn fetch<T>(
        &self,
        connection: &Connection,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        connection.prepare_cached(&self.sql)?.query_map(params_from_iter(&self.values), read)?.collect()
    }
}
