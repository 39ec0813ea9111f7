//! The type of a file, recognized by its first bytes.
//!
//! Containers of media are recognized here, because their first header says which member of a family they
//! are. A file that players would play is read as media, whatever it names itself: a limit on media must not
//! depend on a name. All others are left to the signatures of the crate `infer`. A file that none of them
//! recognizes is text if it can be: UTF-8 without the bytes that text does not contain (WHATWG MIME Sniffing,
//! 3, "binary data byte").

use crate::{contained, mpeg_audio};

/// The type of an unrecognized file.
pub const UNKNOWN: &str = "application/octet-stream";

/// The type of a file by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sniffed {
    pub content_type: &'static str,
    /// The family for reading its headers, if there is a reader.
    pub container: Option<Container>,
}

/// A family of files with the same reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// MP4, `QuickTime`, 3GP; HEIC and AVIF.
    IsoBmff,
    /// Matroska and `WebM`.
    Matroska,
    Jpeg,
    Png,
    Gif,
    WebP,
    Wave,
    Flac,
    Ogg,
    /// MP3, AAC in ADTS frames, and other files behind a tag at the beginning.
    MpegAudio,
}

/// Number of bytes examined to recognize text.
const TEXT_BYTES: usize = 4096;

/// Number of bytes searched for the document type of an EBML file.
const EBML_BYTES: usize = 4096;

/// Maximum number of boxes in front of the one that identifies the file.
const MAX_LEADING_BOXES: usize = 8;

/// Recognizes a file by its first bytes.
pub fn sniff(head: &[u8]) -> Sniffed {
    let sniffed = contained(|| iso_bmff(head).or_else(|| ebml(head)).or_else(|| other(head)));
    sniffed.flatten().unwrap_or(Sniffed { content_type: UNKNOWN, container: None })
}

fn iso_bmff(head: &[u8]) -> Option<Sniffed> {
    let of_type = |content_type| Some(Sniffed { content_type, container: Some(Container::IsoBmff) });
    let Some(brands) = brands(head) else {
        // Early QuickTime files had no `ftyp`. Where other boxes come first, the movie decides the type.
        return match head.get(4..8)? {
            b"moov" | b"mdat" | b"wide" | b"free" | b"skip" if leads_to(head, &[b"moov", b"mdat"]) => {
                of_type("video/quicktime")
            }
            b"free" | b"skip" | b"wide" | b"uuid" | b"styp" | b"sidx" | b"pnot" | b"udta" | b"prfl"
                if leads_to(head, &[b"ftyp", b"moov", b"mdat", b"moof"]) =>
            {
                of_type(UNKNOWN)
            }
            _ => None,
        };
    };
    // The first brand is the one that the file was written for; the others name its other readers.
    let brands = brands.chunks_exact(4).enumerate().filter(|(index, _)| *index != 1);
    let mut types = brands.filter_map(|(_, brand)| brand_type(brand));
    match types.next() {
        // The name of the family says less than the name of the codec.
        Some(family @ "image/heif") => {
            of_type(types.find(|other| ["image/heic", "image/avif"].contains(other)).unwrap_or(family))
        }
        Some(content_type) => of_type(content_type),
        None => of_type(UNKNOWN),
    }
}

/// Returns the content of `ftyp`: a brand, a version, and further brands.
fn brands(head: &[u8]) -> Option<&[u8]> {
    let size = head.first_chunk::<4>().filter(|_| head.get(4..8) == Some(b"ftyp".as_slice()))?;
    let end = usize::try_from(u32::from_be_bytes(*size)).ok()?.min(head.len());
    Some(head.get(8..end).unwrap_or_default())
}

/// Reports whether the first boxes include one of these kinds.
fn leads_to(head: &[u8], kinds: &[&[u8; 4]]) -> bool {
    let mut boxes = head;
    for _ in 0..MAX_LEADING_BOXES {
        let Some((size, kind)) = boxes.first_chunk::<4>().zip(boxes.get(4..8)) else { return false };
        if kinds.iter().any(|wanted| wanted.as_slice() == kind) {
            return true;
        }
        let size = u32::from_be_bytes(*size) as usize;
        boxes = boxes.get(size.max(8)..).unwrap_or_default();
    }
    false
}

fn brand_type(brand: &[u8]) -> Option<&'static str> {
    Some(match brand {
        b"qt  " => "video/quicktime",
        b"M4A " | b"M4B " | b"M4P " | b"F4A " | b"F4B " => "audio/mp4",
        b"heic" | b"heix" | b"heim" | b"heis" => "image/heic",
        b"mif1" | b"msf1" => "image/heif",
        b"avif" | b"avis" => "image/avif",
        b"crx " => "image/x-canon-cr3",
        b"mp41" | b"mp42" | b"mp71" | b"avc1" | b"dash" | b"mmp4" | b"MSNV" | b"XAVC" => "video/mp4",
        [b'i', b's', b'o', _] | [b'c', b'm', b'f', _] | [b'M', b'4', b'V', _] | [b'F', b'4', b'V', _] => "video/mp4",
        [b'N', b'D', ..] => "video/mp4",
        [b'3', b'g', b'2', _] => "video/3gpp2",
        [b'3', b'g', ..] => "video/3gpp",
        _ => return None,
    })
}

fn ebml(head: &[u8]) -> Option<Sniffed> {
    let rest = head.strip_prefix(&[0x1a, 0x45, 0xdf, 0xa3])?;
    let rest = rest.get(..EBML_BYTES).unwrap_or(rest);
    let says = |name: &[u8]| memchr::memmem::find(rest, name).is_some();
    // DocType, an element of this many bytes.
    let content_type = match (says(b"\x42\x82\x84webm"), says(b"\x42\x82\x88matroska")) {
        (true, _) => "video/webm",
        (false, true) => "video/x-matroska",
        // Players take it for Matroska, if they find a segment.
        (false, false) => UNKNOWN,
    };
    Some(Sniffed { content_type, container: Some(Container::Matroska) })
}

fn other(head: &[u8]) -> Option<Sniffed> {
    let content_type = if is_transport_stream(head) {
        "video/mp2t"
    } else if matches!(head.get(..4), Some(b"RF64" | b"BW64")) && head.get(8..12) == Some(b"WAVE") {
        "audio/wav"
    } else if let Some(frame) = mpeg_audio::at_start(head) {
        frame.content_type()
    } else {
        match infer::get(head).map(|found| found.mime_type()) {
            Some(known) => usual(known),
            None if is_text(head) => "text/plain",
            None => return None,
        }
    };
    Some(Sniffed { content_type, container: container_of(content_type) })
}

/// Returns the reader for a type.
fn container_of(content_type: &str) -> Option<Container> {
    Some(match content_type {
        "image/jpeg" => Container::Jpeg,
        "image/png" => Container::Png,
        "image/gif" => Container::Gif,
        "image/webp" => Container::WebP,
        "audio/wav" => Container::Wave,
        "audio/flac" => Container::Flac,
        "audio/ogg" => Container::Ogg,
        "audio/mpeg" | "audio/aac" => Container::MpegAudio,
        _ => return None,
    })
}

/// Returns the registered or usual name of a type that `infer` names differently.
fn usual(known: &'static str) -> &'static str {
    match known {
        "audio/x-flac" => "audio/flac",
        "audio/x-wav" => "audio/wav",
        "audio/m4a" => "audio/mp4",
        // The type of a stream of packets; a file of them is Ogg (RFC 7845, section 9).
        "audio/opus" => "audio/ogg",
        "application/font-woff" => "font/woff",
        "application/font-sfnt" => "font/sfnt",
        known => known,
    }
}

/// Reports whether the file begins with packets of 188 bytes that start with the same byte.
fn is_transport_stream(head: &[u8]) -> bool {
    head.len() > 4 * 188 && head.iter().step_by(188).take(5).all(|byte| *byte == 0x47)
}

fn is_text(head: &[u8]) -> bool {
    let beginning = head.get(..TEXT_BYTES).unwrap_or(head);
    let whole = match std::str::from_utf8(beginning) {
        Ok(_) => true,
        // The last character may be incomplete because only the beginning was examined.
        Err(error) => error.error_len().is_none() && head.len() > TEXT_BYTES,
    };
    let binary = |byte: &u8| matches!(*byte, 0..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    whole && !beginning.is_empty() && !beginning.iter().any(binary)
}
