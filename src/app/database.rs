//! Picks the database that the configuration names. A new kind needs an adapter, its settings and a `match`
//! arm here.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use crate::config::Config;
use state::clock::Clock;
use state::{Bells, Leases, LocalBells, Outbox, Store, UploadStore};
use state_postgres::PostgresStore;
use state_sqlite::SqliteStore;

/// The open database.
#[derive(Debug, Clone)]
pub(super) enum Database {
    Sqlite(Arc<SqliteStore>),
    Postgres(Arc<PostgresStore>),
}

/// Evaluates an expression with the open store, of either kind.
macro_rules! with_store {
    ($database:expr, $store:ident => $result:expr) => {
        match $database {
            Database::Sqlite($store) => $result,
            Database::Postgres($store) => $result,
        }
    };
}

impl Database {
    pub(super) async fn open(config: &Config, data_dir: &Path) -> anyhow::Result<Self> {
        match &config.postgres {
            None => {
                let path = data_dir.join("longshore.db");
                let opened = SqliteStore::open(&path, config.database.clone(), webhook::bodies()).await;
                let store = opened.with_context(|| format!("could not open the database {}", path.display()))?;
                Ok(Self::Sqlite(store))
            }
            Some(settings) => {
                let opened = PostgresStore::open(settings.clone(), webhook::bodies()).await;
                let store = opened.with_context(|| format!("could not open the database {}", settings.address))?;
                tracing::info!("keeping records in {}", settings.address);
                Ok(Self::Postgres(store))
            }
        }
    }

    pub(super) fn uploads(&self) -> Arc<dyn UploadStore> {
        with_store!(self, store => Arc::clone(store) as Arc<dyn UploadStore>)
    }

    pub(super) fn outbox(&self) -> Arc<dyn Outbox> {
        with_store!(self, store => Arc::clone(store) as Arc<dyn Outbox>)
    }

    pub(super) fn nodes(&self) -> Arc<dyn Leases> {
        with_store!(self, store => Arc::clone(store) as Arc<dyn Leases>)
    }

    pub(super) fn bells(&self) -> Arc<dyn Bells> {
        match self {
            Self::Sqlite(_) => Arc::new(LocalBells::default()),
            Self::Postgres(store) => store.bells(),
        }
    }

    pub(super) fn clock(&self) -> Clock {
        with_store!(self, store => store.clock())
    }

    pub(super) fn transactions(&self) -> u64 {
        with_store!(self, store => store.transactions())
    }

    pub(super) fn writes(&self) -> u64 {
        with_store!(self, store => store.writes())
    }

    pub(super) async fn close(&self) {
        with_store!(self, store => store.close().await);
    }
}
