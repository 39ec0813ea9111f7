//! FLAC (RFC 9639): the first metadata block contains all facts.

use crate::fields::be;
use crate::read::{milliseconds, sound};
use crate::window::{ParseStop, Window};
use domain::facts::Media;

/// Maximum number of metadata blocks skipped.
const MAX_BLOCKS: usize = 256;

/// The size of a STREAMINFO block.
const STREAMINFO_BYTES: u64 = 34;

/// The facts in a STREAMINFO block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamInfo {
    pub(super) rate_hz: u32,
    pub(super) channels: u32,
    bits: u32,
    /// `None` if the encoder did not know.
    samples: Option<u64>,
}

impl StreamInfo {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ParseStop> {
        let packed = be::<8>(body, 10)?;
        let bits_at = |shift: u32, count: u32| u32::try_from(packed >> shift & ((1 << count) - 1)).unwrap_or(0);
        let info = Self {
            rate_hz: bits_at(44, 20),
            channels: bits_at(41, 3) + 1,
            bits: bits_at(36, 5) + 1,
            samples: Some(packed & 0xf_ffff_ffff).filter(|samples| *samples > 0),
        };
        if info.rate_hz == 0 { Err(ParseStop::Unreadable) } else { Ok(info) }
    }
}

/// Reads a stream that begins at `at`.
pub(super) fn read(window: &Window, at: u64) -> Result<Media, ParseStop> {
    let head = window.get(at, 8 + STREAMINFO_BYTES)?;
    if !head.starts_with(b"fLaC") || head[4] & 0x7f != 0 {
        return Err(ParseStop::Unreadable);
    }
    let info = StreamInfo::parse(&head[8..])?;
    let samples = match info.samples {
        Some(said) => Some(said.max(fewest_samples(window, at, info)?)),
        None => None,
    };
    let duration_ms = samples.and_then(|samples| milliseconds(samples, info.rate_hz));
    Ok(sound(duration_ms, "flac", Some(info.channels), Some(info.rate_hz)))
}

/// Returns a lower bound for the number of samples: a frame is hardly larger than its uncompressed samples.
fn fewest_samples(window: &Window, at: u64, info: StreamInfo) -> Result<u64, ParseStop> {
    let mut at = at + 4;
    for _ in 0..MAX_BLOCKS {
        if window.size_bytes().saturating_sub(at) < 4 {
            return Ok(0);
        }
        let head = window.get(at, 4)?;
        at += 4 + be::<3>(&head, 1)?;
        if head[0] & 0x80 != 0 {
            break;
        }
    }
    let audio_bits = window.size_bytes().saturating_sub(at).saturating_mul(8);
    // Two more bits for each sample account for the headers of the smallest frames.
    Ok(audio_bits / (u64::from(info.bits + 2) * u64::from(info.channels)))
}
