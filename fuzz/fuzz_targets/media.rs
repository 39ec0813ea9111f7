//! Arbitrary bytes, examined in the same way in which the engine examines an upload that has all of its
//! bytes.

#![no_main]

use std::ops::Range;
use std::sync::Once;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

use domain::facts::{Content, Facts};
use media::read::{ReadOutcome, read};
use media::sniff::sniff;
use media::window::{ParseStop, Window};

/// The default of `media.read_limit`.
const LIMIT_BYTES: u64 = 16 << 20;

/// The most iterations of the loop: each but the last fetches at least one block.
const MOST_LOOKS: u64 = LIMIT_BYTES / media::window::BLOCK_BYTES + 1;

/// The number of tracks that events repeat.
const MOST_TRACKS: usize = 32;

/// The name of a codec is short, whatever the file contains.
const MOST_CODEC_BYTES: usize = 64;

/// Done once the fuzzer's own hook, which ends the process at any panic, is removed. A panic in a library
/// means that the file cannot be read, here as in the server; a panic that is not contained still ends the
/// process.
static LIBRARIES_MAY_PANIC: Once = Once::new();

fuzz_target!(|file: &[u8]| {
    LIBRARIES_MAY_PANIC.call_once(|| drop(std::panic::take_hook()));
    let facts = examine(file);
    assert!(facts.content_type.contains('/') && facts.content_type.len() < 100, "{facts:?}");
    match &facts.content {
        Some(Content::Media(media)) => {
            assert!((1..=MOST_TRACKS).contains(&media.tracks.len()), "{facts:?}");
            for track in &media.tracks {
                assert!(!track.codec.is_empty() && track.codec.len() <= MOST_CODEC_BYTES, "{track:?}");
                assert!(
                    ![track.width, track.height, track.channels, track.sample_rate_hz].contains(&Some(0)),
                    "{track:?}"
                );
            }
        }
        Some(Content::Image(image)) => {
            assert!(image.width > 0 && image.height > 0 && image.frames != Some(0), "{image:?}");
            assert!(image.duration_ms.is_none() || image.frames != Some(1), "{image:?}");
        }
        None => {}
    }
});

fn examine(file: &[u8]) -> Facts {
    let mut window = Window::new(file.len() as u64, LIMIT_BYTES);
    if let Err(ParseStop::Needs(range)) = window.head() {
        fetch(file, range, &mut window);
    }
    let sniffed = sniff(&window.head().expect("it was fetched"));
    for _ in 0..MOST_LOOKS {
        match read(sniffed, &window) {
            ReadOutcome::Done(facts) => return facts,
            ReadOutcome::Needs(range) => fetch(file, range, &mut window),
        }
    }
    panic!("more than {MOST_LOOKS} looks");
}

fn fetch(file: &[u8], range: Range<u64>, window: &mut Window) {
    let at = |offset: u64| usize::try_from(offset).expect("it lies within the file");
    let bytes = &file[at(range.start)..at(range.end)];
    assert!(!bytes.is_empty(), "{range:?} brings nothing");
    window.insert(range.start, Bytes::copy_from_slice(bytes));
}
