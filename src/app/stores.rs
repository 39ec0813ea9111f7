//! Picks the storage that the configuration names. To add a kind: its adapter, a name in `config::Kind`, and
//! an arm here.

use std::sync::Arc;

use storage::BlobStore;
use storage::local::{LocalStore, Means};

use crate::app::data_folder::DataFolder;
use crate::config::{Kind, Storage};

/// Opens the storage. What it may take of the process and the disk is said by `means`.
pub(super) fn open(config: &Storage, folder: &DataFolder, means: Means) -> anyhow::Result<Arc<dyn BlobStore>> {
    match config.kind {
        Kind::Local => Ok(Arc::new(LocalStore::open(folder.path().to_owned(), config.local.clone(), means)?)),
    }
}
