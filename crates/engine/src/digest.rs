//! Digests computed while bytes arrive, with a state that can be saved and resumed.
//!
//! The state is part of every checkpoint, so a resumed upload never reads its stored bytes again.

use md5::Md5;
use sha1::Sha1;
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest as _, Sha256, Sha512};

use domain::checksum::{Algorithm, Digest};

/// The running digests of an upload: always CRC-32C, and others on request.
#[derive(Debug, Clone)]
pub(super) struct RunningDigests(Vec<Hasher>);

/// A digest that is being computed.
#[derive(Debug, Clone)]
pub(super) enum Hasher {
    Crc32c(u32),
    Crc32(crc32fast::Hasher),
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

/// A saved state that this program did not write, or that belongs to other digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kept state of the running digests cannot be read")]
pub(super) struct UnreadableState;

impl RunningDigests {
    pub(super) fn start(wanted: &[Algorithm]) -> Self {
        Self(algorithms(wanted).map(Hasher::start).collect())
    }

    /// Starts exactly these digests, each once.
    pub(super) fn of(wanted: &[Algorithm]) -> Self {
        let wanted = Algorithm::ALL.into_iter().filter(|algorithm| wanted.contains(algorithm));
        Self(wanted.map(Hasher::start).collect())
    }

    /// Resumes from a [state](Self::state); an empty state is a start.
    pub(super) fn resume(wanted: &[Algorithm], state: &[u8]) -> Result<Self, UnreadableState> {
        if state.is_empty() {
            return Ok(Self::start(wanted));
        }
        let mut rest = state;
        let mut hashers = Vec::new();
        for algorithm in algorithms(wanted) {
            let (size, after) = rest.split_first_chunk::<2>().ok_or(UnreadableState)?;
            let (own, after) = after.split_at_checked(u16::from_le_bytes(*size).into()).ok_or(UnreadableState)?;
            hashers.push(Hasher::resume(algorithm, own).ok_or(UnreadableState)?);
            rest = after;
        }
        if rest.is_empty() { Ok(Self(hashers)) } else { Err(UnreadableState) }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for hasher in &mut self.0 {
            hasher.update(bytes);
        }
    }

    /// Returns the state for [`Self::resume`]: two bytes of size and the state, for each digest.
    pub(super) fn state(&self) -> Vec<u8> {
        let mut state = Vec::new();
        for hasher in &self.0 {
            let own = hasher.state();
            let size = u16::try_from(own.len()).expect("the state of a digest has some hundred bytes");
            state.extend(size.to_le_bytes());
            state.extend(own);
        }
        state
    }

    pub(super) fn finish(self) -> Vec<Digest> {
        self.0.into_iter().map(Hasher::finish).collect()
    }
}

/// Returns CRC-32C and the wanted algorithms, each once and always in the same order.
fn algorithms(wanted: &[Algorithm]) -> impl Iterator<Item = Algorithm> + '_ {
    Algorithm::ALL.into_iter().filter(|algorithm| *algorithm == Algorithm::Crc32c || wanted.contains(algorithm))
}

impl Hasher {
    /// Returns `expected`, and a hasher whose digest is to be compared with it.
    pub(super) fn towards(expected: Digest) -> (Digest, Self) {
        let hasher = Self::start(expected.algorithm());
        (expected, hasher)
    }

    pub(super) fn start(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32c => Self::Crc32c(0),
            Algorithm::Crc32 => Self::Crc32(crc32fast::Hasher::new()),
            Algorithm::Md5 => Self::Md5(Md5::new()),
            Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            Self::Crc32(hasher) => hasher.update(bytes),
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Digest {
        let (algorithm, value) = match self {
            Self::Crc32c(crc) => (Algorithm::Crc32c, crc.to_be_bytes().to_vec()),
            Self::Crc32(hasher) => (Algorithm::Crc32, hasher.finalize().to_be_bytes().to_vec()),
            Self::Md5(hasher) => (Algorithm::Md5, hasher.finalize().to_vec()),
            Self::Sha1(hasher) => (Algorithm::Sha1, hasher.finalize().to_vec()),
            Self::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            Self::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
        };
        Digest::new(algorithm, value).expect("a hasher gives a digest of its algorithm's size")
    }

    fn resume(algorithm: Algorithm, state: &[u8]) -> Option<Self> {
        let crc = || state.try_into().ok().map(u32::from_be_bytes);
        Some(match algorithm {
            Algorithm::Crc32c => Self::Crc32c(crc()?),
            Algorithm::Crc32 => Self::Crc32(crc32fast::Hasher::new_with_initial(crc()?)),
            Algorithm::Md5 => Self::Md5(deserialize(state)?),
            Algorithm::Sha1 => Self::Sha1(deserialize(state)?),
            Algorithm::Sha256 => Self::Sha256(deserialize(state)?),
            Algorithm::Sha512 => Self::Sha512(deserialize(state)?),
        })
    }

    fn state(&self) -> Vec<u8> {
        match self {
            Self::Crc32c(crc) => crc.to_be_bytes().to_vec(),
            Self::Crc32(hasher) => hasher.clone().finalize().to_be_bytes().to_vec(),
            Self::Md5(hasher) => hasher.serialize().to_vec(),
            Self::Sha1(hasher) => hasher.serialize().to_vec(),
            Self::Sha256(hasher) => hasher.serialize().to_vec(),
            Self::Sha512(hasher) => hasher.serialize().to_vec(),
        }
    }
}

fn deserialize<H: SerializableState>(state: &[u8]) -> Option<H> {
    H::deserialize(state.try_into().ok()?).ok()
}

/// Returns the CRC-32C of two runs of bytes, one after the other.
pub(super) fn crc32c_joined(first: u32, second: u32, second_bytes: u64) -> u32 {
    let size = usize::try_from(second_bytes).expect("this program is built for 64-bit machines");
    crc32c::crc32c_combine(first, second, size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digests_of_a_known_text() {
        let mut running = RunningDigests::start(&Algorithm::ALL);
        running.update(b"123456789");
        let hex: Vec<_> = running.finish().iter().map(|digest| format!("{digest:?}")).collect();
        assert_eq!(
            hex[..4],
            [
                "crc32c:e3069283",
                "crc32:cbf43926",
                "md5:25f9e794323b453885f5181f1b624d0b",
                "sha1:f7c3bc1d808e04732adf679965ccc34ca7ae3441",
            ]
        );
        assert_eq!(hex[4], "sha256:15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225");
        assert!(hex[5].starts_with("sha512:d9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f1176d0c29169bc24e71c3f274a"));
    }

    #[test]
    fn a_state_of_other_digests_is_not_taken() {
        let state = RunningDigests::start(&[Algorithm::Sha256]).state();
        assert!(RunningDigests::resume(&[Algorithm::Sha256], &state).is_ok());
        for wanted in [&[][..], &[Algorithm::Md5], &[Algorithm::Sha256, Algorithm::Sha512]] {
            assert!(RunningDigests::resume(wanted, &state).is_err(), "{wanted:?}");
        }
        assert!(RunningDigests::resume(&[Algorithm::Sha256], &state[1..]).is_err());
    }

    proptest! {
        #[test]
        fn a_restart_anywhere_changes_nothing(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 0_usize..600) {
            let cut = cut.min(bytes.len());
            let mut straight = RunningDigests::start(&Algorithm::ALL);
            straight.update(&bytes);
            let mut before = RunningDigests::start(&Algorithm::ALL);
            before.update(&bytes[..cut]);
            let mut after = RunningDigests::resume(&Algorithm::ALL, &before.state()).unwrap();
            after.update(&bytes[cut..]);
            prop_assert_eq!(after.finish(), straight.finish());
            let joined = crc32c_joined(crc32c::crc32c(&bytes[..cut]), crc32c::crc32c(&bytes[cut..]), (bytes.len() - cut) as u64);
            prop_assert_eq!(joined, crc32c::crc32c(&bytes));
        }
    }
}
