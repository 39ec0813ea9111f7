//! How bytes are written and what is computed of them.

use std::time::Duration;

use crate::config::reader::{Judged, Reader};
use crate::config::units::{GIB, KIB, MIB, TIB, minutes, ms};
use domain::checksum::Algorithm;
use state::Durability;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    pub kind: Kind,
    pub local: Local,
    pub durability: Durability,
    pub buffer_memory_bytes: u64,
    pub io_threads: usize,
    pub checkpoint_every: Duration,
    pub checkpoint_rate: u32,
    pub checkpoint_bytes: u64,
    pub keep_open: Duration,
    pub min_free_bytes: u64,
    /// Disk space is low when less is free beside that.
    pub low_free_bytes: u64,
    pub max_booked_percent: u64,
    /// Besides CRC-32C, which is computed always and never listed here.
    pub digests: Vec<Algorithm>,
    /// The permissions of new files; those of new folders follow from it.
    pub file_mode: u32,
    /// How many blobs and records are compared in a second after the start. 0: none.
    pub scan_rate: u32,
}

/// Where bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Local,
}

/// How files are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    pub direct_io: bool,
    pub preallocate: bool,
}

impl Storage {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self {
            kind: from.text("storage.kind", kind),
            local: Local::read(from),
            durability: from.text("storage.durability", durability),
            buffer_memory_bytes: from.size("storage.buffer_memory", 16 * MIB..=TIB),
            io_threads: from.count("storage.io_threads", 2..=1024),
            checkpoint_rate: from.count("storage.checkpoint_rate", 1..=1_000_000),
            checkpoint_every: from.duration("storage.checkpoint_every", ms(50)..=minutes(1)),
            checkpoint_bytes: from.size("storage.checkpoint_size", 64 * KIB..=16 * GIB),
            keep_open: from.duration("storage.keep_open", Duration::ZERO..=minutes(1)),
            min_free_bytes: from.size("storage.min_free_space", 0..=900 * TIB),
            low_free_bytes: from.size("storage.low_space", 0..=900 * TIB),
            max_booked_percent: from.count("storage.max_booked_percent", 0..=100),
            file_mode: from.text("storage.file_mode", file_mode),
            scan_rate: from.count("storage.scan_rate", 0..=1_000_000),
            digests: from.list("storage.digests", digests),
        }
    }
}

impl Local {
    fn read(from: &mut Reader) -> Self {
        Self {
            direct_io: from.text("storage.local.direct_io", direct_io),
            preallocate: from.boolean("storage.local.preallocate"),
        }
    }
}

fn kind(name: &str) -> Judged<Kind> {
    match name {
        "local" => Ok(Kind::Local),
        _ => Err("write local, the only kind of storage there is".to_owned()),
    }
}

fn durability(name: &str) -> Judged<Durability> {
    match name {
        "strict" => Ok(Durability::Strict),
        "relaxed" => Ok(Durability::Relaxed),
        _ => Err("write strict or relaxed".to_owned()),
    }
}

fn direct_io(name: &str) -> Judged<bool> {
    match name {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => Err("write auto or off".to_owned()),
    }
}

fn file_mode(text: &str) -> Judged<u32> {
    let hint = || "write octal permissions that let the owner read and write, such as 0640 or 0600".to_owned();
    let digits = text.len() == 4 && text.starts_with('0') && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits);
    mode.filter(|mode| mode & 0o600 == 0o600 && mode & 0o111 == 0).ok_or_else(hint)
}

fn digests(names: Vec<&str>) -> Judged<Vec<Algorithm>> {
    let mut digests = Vec::new();
    for name in names {
        let Some(algorithm) = Algorithm::by_name(name) else {
            return Err(format!("{name:?} is not a digest; write any of crc32, md5, sha1, sha256 and sha512"));
        };
        if digests.contains(&algorithm) {
            return Err(format!("{name:?} is there twice; write each digest once"));
        }
        digests.push(algorithm);
    }
    digests.retain(|algorithm| *algorithm != Algorithm::Crc32c);
    Ok(digests)
}
