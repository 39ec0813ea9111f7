//! Selects the configured storage. To add a kind of storage: write its adapter, add a name to
//! `config::StorageKind`, and an arm here.

use std::sync::Arc;

use anyhow::Context;
use storage::BlobStore;
use storage::local::{LocalStore, LocalStoreResources};
use storage_object::{ObjectBlobStore, ObjectStoreSettings, PartChecksum, S3Settings};

use crate::app::data_folder::DataFolder;
use crate::config::{Config, StorageKind};

/// The share of the memory for uploads that parts in memory may have which are not full. They leave it only
/// when it is used up, and all others need some to make progress.
const OPEN_PARTS_SHARE: u64 = 2;

/// Opens the storage. `resources` limits its use of the process and the disk.
pub(super) async fn open(
    config: &Config,
    folder: &DataFolder,
    resources: LocalStoreResources,
) -> anyhow::Result<Arc<dyn BlobStore>> {
    let storage = &config.storage;
    match storage.kind {
        StorageKind::Local => {
            Ok(Arc::new(LocalStore::open(folder.path().to_owned(), storage.local.clone(), resources)?))
        }
        StorageKind::S3 => {
            let (store, s3) = object_store(config)?;
            let compares_checksums = store.begin().await? && s3.checksum != PartChecksum::Off;
            tracing::info!(bucket = s3.bucket, compares_checksums, "uploads are stored in a bucket");
            if !compares_checksums {
                tracing::warn!("the object store compares no checksums: only the connection to it protects uploads");
            }
            Ok(Arc::new(store))
        }
    }
}

/// Opens the configured bucket without a request.
pub(super) fn object_store(config: &Config) -> anyhow::Result<(ObjectBlobStore, &S3Settings)> {
    let s3 = config.storage.s3.as_ref().context("s3.bucket is empty; set it to the name of a bucket")?;
    let settings = ObjectStoreSettings {
        largest_blob_bytes: config.engine.max_upload_bytes,
        open_parts_bytes: config.engine.writer.buffer_bytes / OPEN_PARTS_SHARE,
        ..config.storage.objects.clone()
    };
    Ok((ObjectBlobStore::s3(s3, settings)?, s3))
}
