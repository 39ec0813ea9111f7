//! Small files made by hand, and a reader's helper that fetches what is asked for.

use bytes::Bytes;

use crate::domain::facts::Facts;
use crate::media::read::Reading;
use crate::media::read::read;
use crate::media::sniff::sniff;
use crate::media::window::Stop;
use crate::media::window::Window;

/// What was found out about a file, and what that took.
#[derive(Debug)]
pub(super) struct Examined {
    pub(super) facts: Facts,
    pub(super) fetched_bytes: u64,
    pub(super) looks: usize,
}

/// Does what the engine does, with bytes in memory.
pub(super) fn examine(file: &[u8], limit_bytes: u64) -> Examined {
    let mut window = Window::new(file.len() as u64, limit_bytes);
    let mut fetched_bytes = 0;
    let mut fetch = |window: &mut Window, range: std::ops::Range<u64>| {
        fetched_bytes += range.end - range.start;
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        assert!(start < end, "{range:?} brings nothing");
        window.insert(range.start, Bytes::copy_from_slice(&file[start..end]));
    };
    if let Err(Stop::Needs(range)) = window.head() {
        fetch(&mut window, range);
    }
    let sniffed = sniff(&window.head().expect("it was fetched"));
    for looks in 1.. {
        match read(sniffed, &window) {
            Reading::Done(facts) => return Examined { facts, fetched_bytes, looks },
            Reading::Needs(range) => fetch(&mut window, range),
        }
    }
    unreachable!("the loop has no end")
}
