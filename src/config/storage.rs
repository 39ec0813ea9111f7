//! How bytes are written and what is computed of them.

use std::time::Duration;

use crate::config::reader::Judged;
use crate::config::reader::Reader;
use crate::config::units::GIB;
use crate::config::units::KIB;
use crate::config::units::TIB;
use crate::config::units::minutes;
use crate::config::units::ms;
use crate::domain::checksum::Algorithm;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    pub checkpoint_every: Duration,
    pub checkpoint_bytes: u64,
    pub min_free_bytes: u64,
    /// Besides CRC-32C, which is computed always and never listed here.
    pub digests: Vec<Algorithm>,
}

impl Storage {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self {
            checkpoint_every: from.duration("storage.checkpoint_every", ms(50)..=minutes(1)),
            checkpoint_bytes: from.size("storage.checkpoint_size", 64 * KIB..=16 * GIB),
            min_free_bytes: from.size("storage.min_free_space", 0..=900 * TIB),
            digests: from.list("storage.digests", digests),
        }
    }
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
