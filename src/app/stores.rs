//! Picks the storage that the configuration names. To add a kind: its adapter, a name in
//! `config::StorageKind`, and an arm here.

use std::sync::Arc;

use storage::BlobStore;
use storage::local::{LocalStore, LocalStoreResources};

use crate::app::data_folder::DataFolder;
use crate::config::{StorageConfig, StorageKind};

/// Opens the storage. What it may take of the process and the disk is said by `resources`.
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
