//! WAV: RIFF, and RF64 or BW64 (EBU Tech 3306) where 32 bits are too few.

use crate::fields::{be, le, le16, le32};
use crate::read::{milliseconds, sound};
use crate::riff;
use crate::riff::Chunk;
use crate::window::{ParseStop, Window};
use domain::facts::Media;

/// Maximum number of chunks examined.
const MAX_CHUNKS: usize = 256;

const PCM: u16 = 1;
const FLOAT: u16 = 3;
const ALAW: u16 = 6;
const ULAW: u16 = 7;
const EXTENSIBLE: u16 = 0xfffe;

/// The format of the samples.
#[derive(Debug, Clone, Copy)]
struct Format {
    tag: u16,
    channels: u16,
    rate_hz: u32,
    bytes_per_s: u32,
    bits: u16,
}

/// The facts in the chunks.
#[derive(Debug, Default)]
struct Found {
    format: Option<Format>,
    /// The size of the samples in 64 bits.
    long_size: Option<u64>,
    /// Number of samples of each channel, which compressed formats state.
    samples: Option<u64>,
    /// Bytes of samples in all `data` chunks: players play one after the other.
    data_bytes: u64,
}

pub(super) fn read(window: &Window) -> Result<Media, ParseStop> {
    let mut found = Found::default();
    let mut at = riff::FIRST;
    for _ in 0..MAX_CHUNKS {
        let Some(chunk) = riff::chunk(window, at)? else { break };
        at = found.take(window, chunk)?;
    }
    let format = found.format.ok_or(ParseStop::Unreadable)?;
    let duration_ms = found.duration_ms(format);
    Ok(sound(duration_ms, codec_of(format.tag), Some(format.channels.into()), Some(format.rate_hz)))
}

impl Found {
    /// Records the facts in a chunk and returns the position of the next one.
    fn take(&mut self, window: &Window, chunk: Chunk) -> Result<u64, ParseStop> {
        match &chunk.kind {
            b"fmt " if self.format.is_none() => {
                self.format = Some(Format::read(&window.get(chunk.start, chunk.size.min(40))?)?);
            }
            b"ds64" => self.long_size = Some(le::<8>(&window.get(chunk.start, 16)?, 8)?),
            b"fact" => self.samples = Some(le32(&window.get(chunk.start, 4)?, 0)?.into()),
            b"data" => {
                let left = window.size_bytes().saturating_sub(chunk.start);
                let said = match (chunk.size, self.long_size) {
                    (0xffff_ffff, Some(long)) => long,
                    // Written by a recorder that was interrupted before it set the size.
                    (0 | 0xffff_ffff, None) => left,
                    (size, _) => size,
                };
                self.data_bytes = self.data_bytes.saturating_add(said.min(left));
                return Ok(Chunk { size: said, ..chunk }.next());
            }
            _ => {}
        }
        Ok(chunk.next())
    }

    fn duration_ms(&self, format: Format) -> Option<u64> {
        let counted = format.sample_bytes().and_then(|bytes| milliseconds(self.data_bytes / bytes, format.rate_hz));
        let said =
            self.samples.filter(|samples| *samples > 0).and_then(|samples| milliseconds(samples, format.rate_hz));
        let by_rate = || milliseconds(self.data_bytes, format.bytes_per_s);
        match counted {
            Some(counted) => Some(counted),
            // For compressed formats, neither the count nor the rate can be checked.
            None => said.max(by_rate()),
        }
    }
}

impl Format {
    fn read(body: &[u8]) -> Result<Self, ParseStop> {
        let tag = match le16(body, 0)? {
            // The first bytes of a GUID whose other bytes are the same for all formats.
            EXTENSIBLE => {
                u16::try_from(be::<1>(body, 24)? | be::<1>(body, 25)? << 8).map_err(|_| ParseStop::Unreadable)?
            }
            tag => tag,
        };
        let found = Self {
            tag,
            channels: le16(body, 2)?,
            rate_hz: le32(body, 4)?,
            bytes_per_s: le32(body, 8)?,
            bits: le16(body, 14)?,
        };
        if found.channels == 0 || found.rate_hz == 0 { Err(ParseStop::Unreadable) } else { Ok(found) }
    }

    /// Returns the size of one sample of all channels in uncompressed formats.
    fn sample_bytes(&self) -> Option<u64> {
        let plain = matches!(self.tag, PCM | FLOAT | ALAW | ULAW) && self.bits > 0;
        plain.then(|| u64::from(self.bits).div_ceil(8) * u64::from(self.channels))
    }
}

/// Returns the name of the codec with this format tag.
pub(super) fn codec_of(tag: u16) -> &'static str {
    match tag {
        PCM => "pcm",
        FLOAT => "pcm-float",
        ALAW => "alaw",
        ULAW => "ulaw",
        0x02 | 0x11 => "adpcm",
        0x50 => "mp2",
        0x55 => "mp3",
        0xff => "mp4a",
        0x2000 => "ac-3",
        _ => "unknown",
    }
}
