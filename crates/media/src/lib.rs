//! What the bytes of an upload are: their type by how they begin, and what the headers of a media file say.
//!
//! Everything here is a function of bytes that somebody else has fetched. A reader that needs more than there
//! is says which bytes, and is asked again when they are there. It waits for nothing, reads no clock and
//! holds no thread, so whoever asks decides how long that may go on.
//!
//! The bytes are not to be trusted. What is read of one upload is bounded ([`window`]); so are the
//! steps of each look, and what each part of a header may have. Nothing calls itself, however deep a
//! file nests its boxes. Libraries get single headers that lie in memory, never the file, and a panic
//! in one of them is a file that cannot be read.
//!
//! Reading order: [`window`] (which bytes there are), [`sniff`](mod@sniff) (the type), [`read`](mod@read)
//! (what files say of themselves), then one module for each format: `isobmff`, `matroska` and `ogg`
//! hold several tracks, `wav`, `flac` and `mpeg_audio` sound, `jpeg`, `png`, `gif` and `webp`
//! images; `codec` has the names of codecs. It knows the domain, and nothing of storage, HTTP or tasks.

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

/// What `work` has to say, unless it panics: not all of it was written here.
fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    // Whatever it has touched is thrown away with it.
    catch_unwind(AssertUnwindSafe(work)).ok()
}
