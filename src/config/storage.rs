//! Settings of the storage.

use crate::config::reader::{Parsed, Reader};
use storage::local::{BlobDurability, FolderAccess, LocalStoreSettings};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    pub kind: StorageKind,
    pub local: LocalStoreSettings,
    pub io_threads: usize,
    /// Permissions of new files. Those of new folders are derived from them.
    pub file_mode: u32,
}

/// Kind of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageKind {
    Local,
}

impl StorageConfig {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self {
            kind: from.text("storage.kind", kind),
            local: read_local(from),
            io_threads: from.count("storage.io_threads", 2..=1024),
            file_mode: from.text("storage.file_mode", file_mode),
        }
    }

    /// Reports whether other servers use the same folder.
    pub(super) fn shares_folder(&self) -> bool {
        self.local.access == FolderAccess::Shared
    }

    /// Checks that servers that share a folder can share their database, too.
    pub(super) fn check(&self, has_postgres: bool, reader: &mut Reader) {
        reader.require(!self.shares_folder() || has_postgres, &["storage.shared", "database.url", "database.url_file"], |_| {
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
        _ => Err("write local, the only supported kind of storage".to_owned()),
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
