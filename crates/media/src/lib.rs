//! Facts about the content of an upload: its type by its first bytes, and the data in the headers of a media
//! file.
//!
//! Everything here is a function of bytes that a caller has fetched. A reader that needs more bytes returns
//! their range, and is called again when they are there. It waits for nothing, reads no clock and holds no
//! thread, so the caller decides how long that may take.
//!
//! The bytes are not trusted. The bytes read of one upload are bounded ([`window`]); so are the steps of each
//! call, and the entries of each part of a header. Nothing is recursive, however deep a file nests its boxes.
//! Libraries get single headers in memory, never the file, and a panic in one of them counts as an unreadable
//! file.
//!
//! Reading order: [`window`] (the bytes fetched so far), [`sniff`](mod@sniff) (the type), [`read`](mod@read)
//! (the headers), then one module for each format: `isobmff`, `matroska` and `ogg` for files with several
//! tracks, `wav`, `flac` and `mpeg_audio` for sound, `jpeg`, `png`, `gif` and `webp` for images; `codec` has
//! the names of codecs. The crate knows the domain, and nothing of storage, HTTP or tasks.

use std::panic::{AssertUnwindSafe, catch_unwind};

mod animation;
mod codec;
mod exif;
mod fields;
mod flac;
mod gif;
mod isobmff;
mod jpeg;
mod matroska;
mod mpeg_audio;
mod ogg;
mod png;
pub mod read;
mod riff;
pub mod sniff;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wav;
mod webp;
pub mod window;

/// Returns the result of `work`, unless it panics: some of the code is in libraries.
fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    // Values that it has changed are dropped with it.
    catch_unwind(AssertUnwindSafe(work)).ok()
}
