//! Picks the database that the configuration names. A new kind needs an adapter, its settings and a `match`
//! arm here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use crate::config::Config;
use domain::node::NodeRole;
use state::clock::Clock;
use state::{Bells, ClusterRecord, Duties, Leases, LocalBells, Outbox, Reads, Store, UploadStore};
use state_postgres::{PostgresSettings, PostgresStore};
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

/// Returns the path of the database of a data folder.
pub(super) fn sqlite_path(data_dir: &Path) -> PathBuf {
    data_dir.join("longshore.db")
}

impl Database {
    pub(super) async fn open(config: &Config, data_dir: &Path) -> anyhow::Result<Self> {
        match &config.postgres {
            None => {
                let path = sqlite_path(data_dir);
                let opened = SqliteStore::open(&path, config.database.clone(), webhook::bodies()).await;
                let store = opened.with_context(|| format!("could not open the database {}", path.display()))?;
                Ok(Self::Sqlite(store))
            }
            Some(settings) => {
                let only_reads = config.role == NodeRole::Read;
                let settings = PostgresSettings { only_reads, ..settings.clone() };
                let address = settings.address.clone();
                let opened = PostgresStore::open(settings, webhook::bodies()).await;
                let store = opened.with_context(|| format!("could not open the database {address}"))?;
                tracing::info!("keeping records in {address}");
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

    /// Returns the reads that may go to replicas; `None` for a database that has none.
    pub(super) fn reads(&self) -> Option<Arc<dyn Reads>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(store) => Some(Arc::clone(store) as Arc<dyn Reads>),
        }
    }

    /// Prepares the database for reads by the calling thread, which does nothing else.
    pub(super) fn serve_reads_on_this_thread(&self) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(store) => store.drive_reads_on_this_thread(),
        }
    }

    pub(super) fn nodes(&self) -> Arc<dyn Leases> {
        with_store!(self, store => Arc::clone(store) as Arc<dyn Leases>)
    }

    pub(super) fn duties(&self) -> Arc<dyn Duties> {
        with_store!(self, store => Arc::clone(store) as Arc<dyn Duties>)
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

    /// Returns the record of a cluster; `None` for a database that only one server can use.
    pub(super) fn cluster_record(&self) -> Option<Arc<dyn ClusterRecord>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(store) => Some(Arc::clone(store) as Arc<dyn ClusterRecord>),
        }
    }

    /// Returns how far the clock of this machine is ahead of the database's, in seconds; `None` if they are
    /// the same clock.
    pub(super) fn clock_offset(&self) -> Option<impl Fn() -> f64 + Send + Sync + use<>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(store) => {
                let store = Arc::clone(store);
                Some(move || store.clock_offset_seconds())
            }
        }
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
