//! The bucket of the tests. Each store has a folder of its own in it.

use std::env::var;
use std::sync::atomic::{AtomicU64, Ordering};

use longshore_storage_object::{ObjectBlobStore, ObjectStoreSettings, PartChecksum, S3Keys, S3Settings, Secret};

/// The smallest part that stores accept.
pub(crate) const PART_BYTES: u64 = 5 << 20;

static LAST: AtomicU64 = AtomicU64::new(0);

fn s3() -> S3Settings {
    let setting =
        |name: &str| var(name).unwrap_or_else(|_| panic!("{name} is not set; see tests/services/seaweedfs.sh"));
    S3Settings {
        bucket: setting("TEST_S3_BUCKET"),
        region: "us-east-1".to_owned(),
        endpoint: Some(setting("TEST_S3_URL")),
        path_style: true,
        keys: Some(S3Keys { access_key_id: setting("TEST_S3_KEY"), secret: Secret::new(setting("TEST_S3_SECRET")) }),
        checksum: PartChecksum::Crc32c,
    }
}

pub(crate) fn settings() -> ObjectStoreSettings {
    let prefix = format!("test-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
    ObjectStoreSettings { prefix, part_bytes: PART_BYTES, ..ObjectStoreSettings::default() }
}

/// Opens a store in an empty folder.
pub(crate) fn store() -> ObjectBlobStore {
    store_with(settings())
}

pub(crate) fn store_with(settings: ObjectStoreSettings) -> ObjectBlobStore {
    ObjectBlobStore::s3(&s3(), settings).unwrap()
}
