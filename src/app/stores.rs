//! Picks the storage that the configuration names. To add a kind: its adapter, a name in `config::Kind`, and
//! an arm here.

use std::sync::Arc;

use pool::Pool;
use storage::BlobStore;
use storage::local::{Durability, LocalStore, Settings};

use crate::app::data_folder::DataFolder;
use crate::config::{Kind, Storage};

/// What a storage may use of the process.
pub(super) struct Means<'a> {
    pub(super) folder: &'a DataFolder,
    /// Descriptors for direct writes.
    pub(super) direct_files: usize,
    /// Disk space to leave to others.
    pub(super) keep_free_bytes: u64,
    /// Memory for what is read ahead.
    pub(super) read_pool: Pool,
}

pub(super) fn open(config: &Storage, means: Means<'_>) -> anyhow::Result<Arc<dyn BlobStore>> {
    match config.kind {
        Kind::Local => open_local(config, means),
    }
}

fn open_local(
    config: &Storage,
    Means { folder, direct_files, keep_free_bytes, read_pool }: Means<'_>,
) -> anyhow::Result<Arc<dyn BlobStore>> {
    let durability = match config.durability {
        state::Durability::Strict => Durability::Strict,
        state::Durability::Relaxed => Durability::Relaxed,
    };
    let settings = Settings {
        durability,
        direct: config.local.direct_io,
        direct_files,
        preallocate: config.local.preallocate,
        keep_free_bytes,
        read_pool,
        guard: Some(folder.lock()),
        ..Settings::default()
    };
    Ok(Arc::new(LocalStore::open(folder.path().to_owned(), settings)?))
}
