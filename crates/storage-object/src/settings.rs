//! The settings of an object store.

use std::fmt;
use std::time::Duration;

/// Where the bucket is, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    pub bucket: String,
    /// The region that requests are signed for. Stores without regions mostly accept `us-east-1`.
    pub region: String,
    /// The address of the store, as `http://` or `https://`. None means that of AWS in the region.
    pub endpoint: Option<String>,
    /// The bucket is named in the path of a URL instead of its host.
    pub path_style: bool,
    /// A key that does not expire. None means one of the machine: of its environment, role or identity.
    pub keys: Option<S3Keys>,
    pub checksum: PartChecksum,
}

/// The name of a key, and the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Keys {
    pub access_key_id: String,
    pub secret: Secret,
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The checksum that the store compares with the bytes of each part (scale-out O14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartChecksum {
    /// CRC-32C, in the headers of S3.
    Crc32c,
    /// CRC-32C if the store rejects a wrong one; none before that is known.
    Auto,
    /// None: only the connection protects the bytes.
    Off,
}

/// Sizes, numbers and times of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStoreSettings {
    /// The folder in the bucket. Empty means the whole bucket.
    pub prefix: String,
    /// The size of the parts of an upload, in bytes, from 5 MiB to 5 GiB. Uploads of more than 9,000 parts
    /// have larger ones.
    pub part_bytes: u64,
    /// The size in bytes that an upload of unknown length is expected to have at most.
    pub largest_blob_bytes: u64,
    /// Parts of one upload that are sent at once, at least 1. An upload holds memory for them and for one
    /// more.
    pub upload_parts_in_flight: usize,
    /// Parts of all uploads that are sent at once, at least 1.
    pub parts_in_flight: usize,
    /// Memory for the bytes of parts that are not full, of all uploads. Beyond it they are stored as small
    /// objects.
    pub open_parts_bytes: u64,
    /// The time for which a request is repeated before it has failed.
    pub give_up_after: Duration,
    /// The same for the completion of an upload, which takes minutes in some stores.
    pub complete_timeout: Duration,
}

impl Default for ObjectStoreSettings {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            part_bytes: 8 << 20,
            largest_blob_bytes: 72_000 << 20,
            upload_parts_in_flight: 2,
            parts_in_flight: 64,
            open_parts_bytes: 128 << 20,
            give_up_after: Duration::from_secs(60),
            complete_timeout: Duration::from_secs(600),
        }
    }
}
