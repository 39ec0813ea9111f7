//! The type of a file, told by how it begins.
//!
//! Containers of media are told apart here, because which files of a family they hold is in their first header. All
//! others are left to the signatures of the crate `infer`. What none of them knows is text if it could be: UTF-8
//! without the bytes that text does not have (WHATWG MIME Sniffing, 3, "binary data byte").

use crate::media::contained;

/// What nothing is known about.
pub const UNKNOWN: &str = "application/octet-stream";

/// What a file is by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sniffed {
    pub content_type: &'static str,
    /// How to read more, where that is known.
    pub container: Option<Container>,
}

/// A family of containers that is read alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// MP4, `QuickTime`, 3GP.
    IsoBmff,
    /// Matroska and `WebM`.
    Matroska,
}

/// How far text is looked at.
const TEXT_BYTES: usize = 4096;

/// How far the name of a kind of EBML file is looked for.
const EBML_BYTES: usize = 256;

/// Looks at the beginning of a file.
pub fn sniff(head: &[u8]) -> Sniffed {
    let sniffed = contained(|| iso_bmff(head).or_else(|| ebml(head)).or_else(|| other(head)));
    sniffed.flatten().unwrap_or(Sniffed { content_type: UNKNOWN, container: None })
}

fn iso_bmff(head: &[u8]) -> Option<Sniffed> {
    let media = |content_type| Some(Sniffed { content_type, container: Some(Container::IsoBmff) });
    let [size @ .., _, _, _, _] = head.first_chunk::<8>()?;
    match head.get(4..8)? {
        b"ftyp" => {}
        // QuickTime had no ftyp in the beginning.
        b"moov" | b"mdat" | b"wide" | b"free" | b"skip" if has_old_quicktime(head) => return media("video/quicktime"),
        _ => return None,
    }
    let end = usize::try_from(u32::from_be_bytes(*size)).ok()?.min(head.len());
    let brands = head.get(8..end)?.chunks_exact(4).enumerate().filter(|(index, _)| *index != 1);
    let types = brands.filter_map(|(_, brand)| brand_type(brand));
    // The first is the one a file was written for; the others say what else may read it.
    let content_type = types.into_iter().next()?;
    if content_type.starts_with("image/") {
        Some(Sniffed { content_type, container: None })
    } else {
        media(content_type)
    }
}

fn has_old_quicktime(head: &[u8]) -> bool {
    let second = head.first_chunk::<4>().map(|size| u32::from_be_bytes(*size) as usize);
    let next = second.and_then(|at| head.get(at..)?.get(4..8));
    matches!(head.get(4..8), Some(b"moov" | b"mdat")) || matches!(next, Some(b"moov" | b"mdat" | b"wide"))
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
        (false, false) => return None,
    };
    Some(Sniffed { content_type, container: Some(Container::Matroska) })
}

fn other(head: &[u8]) -> Option<Sniffed> {
    let content_type = if is_transport_stream(head) {
        "video/mp2t"
    } else {
        match infer::get(head).map(|found| found.mime_type()) {
            Some(known) => usual(known),
            None if is_text(head) => "text/plain",
            None => return None,
        }
    };
    Some(Sniffed { content_type, container: None })
}

/// The registered name, or the one that everybody writes, of what has another one in `infer`.
fn usual(known: &'static str) -> &'static str {
    match known {
        "audio/x-flac" => "audio/flac",
        "audio/x-wav" => "audio/wav",
        "audio/m4a" => "audio/mp4",
        "application/font-woff" => "font/woff",
        "application/font-sfnt" => "font/sfnt",
        known => known,
    }
}

/// Packets of 188 bytes that all begin alike.
fn is_transport_stream(head: &[u8]) -> bool {
    head.len() > 4 * 188 && head.iter().step_by(188).take(5).all(|byte| *byte == 0x47)
}

fn is_text(head: &[u8]) -> bool {
    let beginning = head.get(..TEXT_BYTES).unwrap_or(head);
    let whole = match std::str::from_utf8(beginning) {
        Ok(_) => true,
        // The last character may have been cut in two by us.
        Err(error) => error.error_len().is_none() && head.len() > TEXT_BYTES,
    };
    let binary = |byte: &u8| matches!(*byte, 0..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    whole && !beginning.is_empty() && !beginning.iter().any(binary)
}
