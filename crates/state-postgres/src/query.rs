//! SQL statements composed from pieces, with their values.

use std::fmt::Write;

use crate::params::Param;
use domain::principal::TenantScope;

/// Sorts after every identifier. A list without a cursor begins here.
pub(crate) const AFTER_ALL: [u8; 16] = [0xff; 16];

/// Returns the lowest and the highest number of the tenants in a scope, so that one statement serves every
/// scope.
pub(crate) fn tenants(scope: TenantScope) -> (u32, u32) {
    match scope {
        TenantScope::One(tenant) => (tenant.number(), tenant.number()),
        TenantScope::All => (u32::MIN, u32::MAX),
    }
}

/// A statement under construction. Input from outside is bound as values and never becomes text.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    sql: String,
    values: Vec<Param>,
}

impl Query {
    pub(crate) fn new(sql: &'static str) -> Self {
        Self { sql: sql.to_owned(), values: Vec::new() }
    }

    pub(crate) fn push(&mut self, sql: &'static str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    pub(crate) fn bind(&mut self, value: impl Into<Param>) -> &mut Self {
        self.values.push(value.into());
        let _ = write!(self.sql, "${}", self.values.len());
        self
    }

    /// Adds the condition that a column is within a scope.
    pub(crate) fn within(&mut self, column: &'static str, scope: TenantScope) -> &mut Self {
        let (least, most) = tenants(scope);
        self.push(column).push(" BETWEEN ").bind(least).push(" AND ").bind(most)
    }

    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }

    pub(crate) fn values(&self) -> &[Param] {
        &self.values
    }
}
