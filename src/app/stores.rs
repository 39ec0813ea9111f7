//! Selects the configured storage. To add a kind of storage: write its adapter, add a name to
//! `config::StorageKind`, and an arm here.

use std::sync::Arc;

use storage::BlobStore;
use storage::local::{LocalStore, LocalStoreResources};

use crate::app::data_folder::DataFolder;
use crate::config::{StorageConfig, StorageKind};

/// Opens the storage. `resources` limits its use of the process and the disk.
pub(super) fn open(
    config: &StorageConfig,
    folder: &DataFolder,
    resources: LocalStoreResources,
) -> anyhow::Result<Arc<dyn BlobStore>> {
    match config.kind {
        StorageKind::Local => {
            Ok(Arc::new(LocalStore::open(folder.path().to_owned(), config.local.clone(), resources)?))
        }
    }
}
