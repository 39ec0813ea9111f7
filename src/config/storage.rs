//! Settings of the storage.

use crate::config::object_store;
use crate::config::reader::{Parsed, Reader};
use storage::local::{BlobDurability, FolderAccess, LocalStoreSettings};
use storage_object::{ObjectStoreSettings, S3Settings};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    pub kind: StorageKind,
    pub local: LocalStoreSettings,
    /// `None`: no bucket is named.
    pub s3: Option<S3Settings>,
    pub objects: ObjectStoreSettings,
    pub io_threads: usize,
    /// Permissions of new files. Those of new folders are derived from them.
    pub file_mode: u32,
}

/// Kind of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageKind {
    /// Files in the data folder.
    Local,
    /// Objects in a bucket of S3 or of a store that speaks its protocol.
    S3,
}

impl StorageConfig {
    pub(super) fn read(from: &mut Reader) -> Self {
        let kind = from.text("storage.kind", kind);
        let local = read_local(from);
        let (s3, objects) = object_store::read(from);
        Self {
            kind,
            local,
            s3,
            objects,
            io_threads: from.count("storage.io_threads", 2..=1024),
            file_mode: from.text("storage.file_mode", file_mode),
        }
    }

    /// Reports whether other servers can use the same storage.
    pub(super) fn is_shared(&self) -> bool {
        self.kind == StorageKind::S3 || self.local.access == FolderAccess::Shared
    }

    /// Checks that an object store is named, and that servers that share a folder can share their database,
    /// too.
    pub(super) fn check(&self, has_postgres: bool, reader: &mut Reader) {
        reader.require(self.kind != StorageKind::S3 || self.s3.is_some(), &["storage.kind", "s3.bucket"], |_| {
            "needs a bucket; set s3.bucket to the name of one that exists".to_owned()
        });
        let shares_folder = self.local.access == FolderAccess::Shared;
        reader.require(!shares_folder || self.kind == StorageKind::Local, &["storage.shared", "storage.kind"], |_| {
            "has no effect with an object store, which servers share in any case; leave storage.shared at false"
                .to_owned()
        });
        reader.require(!shares_folder || has_postgres, &["storage.shared", "database.url", "database.url_file"], |_| {
            "servers that share a folder need one PostgreSQL database; set database.url, or leave storage.shared at \
             false"
                .to_owned()
        });
    }
}

fn read_local(from: &mut Reader) -> LocalStoreSettings {
    let access = if from.boolean("storage.shared") { FolderAccess::Shared } else { FolderAccess::Exclusive };
    LocalStoreSettings {
        access,
        durability: from.text("storage.durability", durability),
        direct_io: from.text("storage.local.direct_io", direct_io),
        preallocate: from.boolean("storage.local.preallocate"),
        ..LocalStoreSettings::default()
    }
}

fn kind(name: &str) -> Parsed<StorageKind> {
    match name {
        "local" => Ok(StorageKind::Local),
        "s3" => Ok(StorageKind::S3),
        _ => Err("write local or s3".to_owned()),
    }
}

fn durability(name: &str) -> Parsed<BlobDurability> {
    match name {
        "strict" => Ok(BlobDurability::Strict),
        "relaxed" => Ok(BlobDurability::Relaxed),
        _ => Err("write strict or relaxed".to_owned()),
    }
}

fn direct_io(name: &str) -> Parsed<bool> {
    match name {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err("write auto or off".to_owned()),
    }
}

fn file_mode(text: &str) -> Parsed<u32> {
    let hint = || "write octal permissions that let the owner read and write, such as 0640 or 0600".to_owned();
    let digits = text.len() == 4 && text.starts_with('0') && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits);
    mode.filter(|mode| mode & 0o600 == 0o600 && mode & 0o111 == 0).ok_or_else(hint)
}
