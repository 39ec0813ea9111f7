//! Small files made by hand, and an examination of them like the engine's.

use bytes::Bytes;

use crate::read::{ReadOutcome, read};
use crate::sniff::sniff;
use crate::window::{ParseStop, Window};
use domain::facts::{Content, Facts, Image, Media};

/// The facts found in a file, and the cost of finding them.
#[derive(Debug)]
pub(super) struct Examined {
    pub(super) facts: Facts,
    pub(super) fetched_bytes: u64,
    pub(super) looks: usize,
}

/// Examines a file in memory as the engine examines one in the storage.
pub(super) fn examine(file: &[u8], limit_bytes: u64) -> Examined {
    let mut window = Window::new(file.len() as u64, limit_bytes);
    let mut fetched_bytes = 0;
    let mut fetch = |window: &mut Window, range: std::ops::Range<u64>| {
        fetched_bytes += range.end - range.start;
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        assert!(start < end, "{range:?} brings nothing");
        window.insert(range.start, Bytes::copy_from_slice(&file[start..end]));
    };
    if let Err(ParseStop::Needs(range)) = window.head() {
        fetch(&mut window, range);
    }
    let sniffed = sniff(&window.head().expect("it was fetched"));
    let mut looks = 0;
    loop {
        looks += 1;
        match read(sniffed, &window) {
            ReadOutcome::Done(facts) => return Examined { facts, fetched_bytes, looks },
            ReadOutcome::Needs(range) => fetch(&mut window, range),
        }
    }
}

/// Returns the media facts in the headers of a file, which must be readable.
pub(super) fn media(file: &[u8]) -> Media {
    match examine(file, 16 << 20).facts.content {
        Some(Content::Media(media)) => media,
        other => panic!("no media, but {other:?}"),
    }
}

/// Returns the image facts in the headers of a file, which must be readable.
pub(super) fn image(file: &[u8]) -> Image {
    match examine(file, 16 << 20).facts.content {
        Some(Content::Image(image)) => image,
        other => panic!("no image, but {other:?}"),
    }
}

pub(super) fn boxed(kind: &[u8; 4], body: impl AsRef<[u8]>) -> Vec<u8> {
    let size = u32::try_from(body.as_ref().len() + 8).unwrap();
    [&size.to_be_bytes(), kind.as_slice(), body.as_ref()].concat()
}

/// Builds a box that contains boxes.
pub(super) fn nest<const N: usize>(kind: &[u8; 4], inner: [Vec<u8>; N]) -> Vec<u8> {
    boxed(kind, inner.concat())
}

/// Builds a box of numbers, after its version and flags.
pub(super) fn numbers<const N: usize>(kind: &[u8; 4], version_and_flags: u32, numbers: [u32; N]) -> Vec<u8> {
    let all = [version_and_flags].into_iter().chain(numbers);
    boxed(kind, all.flat_map(u32::to_be_bytes).collect::<Vec<_>>())
}

pub(super) fn ftyp(brand: &[u8; 4]) -> Vec<u8> {
    boxed(b"ftyp", [brand.as_slice(), &[0, 0, 2, 0], b"isom"].concat())
}

pub(super) const UPRIGHT: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];
pub(super) const ON_ITS_SIDE: [u32; 9] = [0, 0x1_0000, 0, 0xffff_0000, 0, 0, 0, 0, 0x4000_0000];

pub(super) fn mvhd(timescale: u32, duration: u32) -> Vec<u8> {
    turned_mvhd(timescale, duration, UPRIGHT)
}

pub(super) fn turned_mvhd(timescale: u32, duration: u32, matrix: [u32; 9]) -> Vec<u8> {
    let mut all = [0; 24];
    (all[2], all[3], all[4]) = (timescale, duration, 0x1_0000);
    all[8..17].copy_from_slice(&matrix);
    numbers(b"mvhd", 0, all)
}

pub(super) fn tkhd(flags: u32, width: u32, height: u32, matrix: [u32; 9]) -> Vec<u8> {
    let mut all = [0; 20];
    all[2] = 1;
    all[9..18].copy_from_slice(&matrix);
    (all[18], all[19]) = (width << 16, height << 16);
    numbers(b"tkhd", flags, all)
}

/// Builds a track. `head` is its `tkhd`, `entry` its sample entry.
pub(super) fn trak(
    head: Vec<u8>,
    handler: &[u8; 4],
    timescale: u32,
    duration: u32,
    samples: u32,
    entry: Vec<u8>,
) -> Vec<u8> {
    trak_with(
        head,
        handler,
        timescale,
        duration,
        [entry_list(entry), numbers(b"stsz", 0, [0, samples])].concat(),
        vec![],
    )
}

pub(super) fn entry_list(entry: Vec<u8>) -> Vec<u8> {
    boxed(b"stsd", [&[0, 0, 0, 0, 0, 0, 0, 1], entry.as_slice()].concat())
}

/// Builds a table of sample durations: pairs of a number of samples and their units.
pub(super) fn stts(spans: &[(u32, u32)]) -> Vec<u8> {
    let numbers =
        [0, u32::try_from(spans.len()).unwrap()].into_iter().chain(spans.iter().flat_map(|span| [span.0, span.1]));
    boxed(b"stts", numbers.flat_map(u32::to_be_bytes).collect::<Vec<_>>())
}

/// Builds a list of edits of these durations.
pub(super) fn edits(shown: &[u32]) -> Vec<u8> {
    let entries = shown.iter().flat_map(|shown| [*shown, 0, 0x1_0000]);
    let numbers = [0, u32::try_from(shown.len()).unwrap()].into_iter().chain(entries);
    nest(b"edts", [boxed(b"elst", numbers.flat_map(u32::to_be_bytes).collect::<Vec<_>>())])
}

/// Builds a track with these boxes in its `stbl`, and with `extra` boxes directly in it.
pub(super) fn trak_with(
    head: Vec<u8>,
    handler: &[u8; 4],
    timescale: u32,
    duration: u32,
    tables: Vec<u8>,
    extra: Vec<u8>,
) -> Vec<u8> {
    let tables = boxed(b"stbl", tables);
    let handler = boxed(b"hdlr", [&[0; 8], handler.as_slice(), &[0; 13]].concat());
    let media = nest(
        b"mdia",
        [numbers(b"mdhd", 0, [0, 0, timescale, duration, 0x55c4_0000]), handler, nest(b"minf", [tables])],
    );
    nest(b"trak", [head, extra, media])
}

pub(super) fn visual(kind: &[u8; 4], width: u16, height: u16, config: Vec<u8>) -> Vec<u8> {
    let mut body = vec![0; 78];
    body[24..26].copy_from_slice(&width.to_be_bytes());
    body[26..28].copy_from_slice(&height.to_be_bytes());
    boxed(kind, [body, config].concat())
}

pub(super) fn sound(kind: &[u8; 4], channels: u16, rate: u16, config: Vec<u8>) -> Vec<u8> {
    let mut body = vec![0; 28];
    body[16..18].copy_from_slice(&channels.to_be_bytes());
    body[24..26].copy_from_slice(&rate.to_be_bytes());
    boxed(kind, [body, config].concat())
}

pub(super) fn avc_config() -> Vec<u8> {
    boxed(b"avcC", [1, 0x64, 0x00, 0x28, 0xff, 0xe0, 0])
}

/// Builds the description of AAC, low complexity, in stereo.
pub(super) fn aac_config() -> Vec<u8> {
    let specific = [5, 2, 0x12, 0x10];
    let decoder = [&[4, 17, 0x40, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], specific.as_slice()].concat();
    let stream = [&[0, 0, 0, 1, 3, 25, 0, 1, 0], decoder.as_slice(), &[6, 1, 2]].concat();
    boxed(b"esds", stream)
}

pub(super) fn video_track() -> Vec<u8> {
    let entry = visual(b"avc1", 1920, 1080, avc_config());
    trak(tkhd(3, 1920, 1080, UPRIGHT), b"vide", 30_000, 300_300, 300, entry)
}

pub(super) fn audio_track() -> Vec<u8> {
    trak(tkhd(3, 0, 0, UPRIGHT), b"soun", 44_100, 441_000, 431, sound(b"mp4a", 2, 44_100, aac_config()))
}

pub(super) fn moov() -> Vec<u8> {
    nest(b"moov", [mvhd(1_000, 10_010), video_track(), audio_track()])
}

/// Builds a media box with this many bytes.
pub(super) fn mdat(bytes: usize) -> Vec<u8> {
    boxed(b"mdat", vec![0xa5; bytes])
}

/// Builds a film of ten seconds with its headers in front.
pub(super) fn mp4() -> Vec<u8> {
    [ftyp(b"isom"), moov(), mdat(5_000)].concat()
}

pub(super) fn element(id: &[u8], body: impl AsRef<[u8]>) -> Vec<u8> {
    let size = (body.as_ref().len() as u64 | 1 << 56).to_be_bytes();
    [id, &size, body.as_ref()].concat()
}

pub(super) fn ebml(doc_type: &str) -> Vec<u8> {
    let name = [&[0x42, 0x82, 0x80 | u8::try_from(doc_type.len()).unwrap()], doc_type.as_bytes()].concat();
    let versions = [&[0x42, 0x87, 0x81, 4], [0x42, 0x85, 0x81, 2].as_slice()].concat();
    element(&[0x1a, 0x45, 0xdf, 0xa3], [name, versions].concat())
}

/// Builds `Info` with this duration.
pub(super) fn info(duration_ms: f64) -> Vec<u8> {
    let inner = [
        element(&[0x44, 0x89], duration_ms.to_be_bytes()),
        element(&[0x4d, 0x80], b"hand"),
        element(&[0x57, 0x41], b"made"),
    ];
    element(&[0x15, 0x49, 0xa9, 0x66], inner.concat())
}

pub(super) fn track_entry(number: u8, kind: u8, codec: &str, more: &[Vec<u8>]) -> Vec<u8> {
    let own = [
        element(&[0xd7], [number]),
        element(&[0x73, 0xc5], [number]),
        element(&[0x83], [kind]),
        element(&[0x86], codec),
        more.concat(),
    ];
    element(&[0xae], own.concat())
}

pub(super) fn vp9_entry() -> Vec<u8> {
    let size = [element(&[0xb0], 640_u16.to_be_bytes()), element(&[0xba], 360_u16.to_be_bytes())].concat();
    let frame_ns = element(&[0x23, 0xe3, 0x83], 33_366_667_u32.to_be_bytes());
    track_entry(1, 1, "V_VP9", &[frame_ns, element(&[0xe0], size)])
}

pub(super) fn opus_entry() -> Vec<u8> {
    let sound = [element(&[0xb5], 48_000_f64.to_be_bytes()), element(&[0x9f], [2])].concat();
    track_entry(2, 2, "A_OPUS", &[element(&[0xe1], sound)])
}

pub(super) fn tracks(entries: &[Vec<u8>]) -> Vec<u8> {
    element(&[0x16, 0x54, 0xae, 0x6b], entries.concat())
}

pub(super) fn cluster(bytes: usize) -> Vec<u8> {
    element(&[0x1f, 0x43, 0xb6, 0x75], element(&[0xec], vec![0; bytes]))
}

pub(super) const SEGMENT: [u8; 4] = [0x18, 0x53, 0x80, 0x67];

pub(super) fn webm() -> Vec<u8> {
    let inner = [info(4_011.0), tracks(&[vp9_entry(), opus_entry()]), cluster(5_000)];
    [ebml("webm"), element(&SEGMENT, inner.concat())].concat()
}
