//! Names and values of digests. The engine computes them.

use std::fmt;

/// A digest algorithm. The order of the variants is the order in which algorithms are announced and listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Crc32c,
    Crc32,
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    pub const ALL: [Self; 6] = [Self::Crc32c, Self::Crc32, Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// Returns the lower-case name that tus, the status API and the configuration use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::Crc32 => "crc32",
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Returns the size of a digest in bytes.
    pub const fn digest_bytes(self) -> usize {
        match self {
            Self::Crc32c | Self::Crc32 => 4,
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Finds an algorithm by its name, in any letter case.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }
}

/// A digest whose size matches its algorithm. Checksums of four bytes are kept big-endian.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    value: Vec<u8>,
}

impl Digest {
    /// Returns `None` if the value does not have the size of the algorithm's digests.
    pub fn new(algorithm: Algorithm, value: Vec<u8>) -> Option<Self> {
        (value.len() == algorithm.digest_bytes()).then_some(Self { algorithm, value })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Returns the value in lower-case hexadecimal.
    pub fn hex(&self) -> String {
        self.value.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_sizes_must_match() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::by_name(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::by_name(&algorithm.name().to_uppercase()), Some(algorithm));
            assert!(Digest::new(algorithm, vec![0; algorithm.digest_bytes()]).is_some());
            assert!(Digest::new(algorithm, vec![0; algorithm.digest_bytes() + 1]).is_none());
        }
        assert_eq!(Algorithm::by_name("sha-256"), None);
    }
}
