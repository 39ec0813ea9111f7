use allocation_counter::AllocationInfo;
use proptest::prelude::*;

use crate::read::plain_track;
use crate::sniff::{Container, UNKNOWN, sniff};
use crate::testing::*;
use crate::window::{BLOCK_BYTES, ParseStop, Window};
use crate::{codec, contained};
use domain::facts::{Facts, Track, TrackKind};

mod images;
mod lengths;
mod matroska;
mod sound;

const LIMIT: u64 = 16 << 20;

/// Maximum memory of a call, beside the fetched bytes.
const MOST_BESIDE: u64 = 8 << 20;

/// Examines a file, and checks that neither its size nor its content decides how much is read, held or done.
/// Work is counted in allocations, because time depends on the machine.
fn bounded(name: &str, file: &[u8]) -> Examined {
    let mut found = None;
    let AllocationInfo { bytes_max, count_total, .. } =
        allocation_counter::measure(|| found = Some(examine(file, LIMIT)));
    let found = found.unwrap();
    assert!(found.fetched_bytes <= LIMIT && found.looks <= 300, "{name}: {found:?}");
    assert!(bytes_max <= found.fetched_bytes + MOST_BESIDE, "{name}: {bytes_max} bytes held, {found:?}");
    assert!(count_total <= 1_000_000, "{name}: {count_total} allocations, {found:?}");
    let tracks = found.facts.media().map_or(0, |media| media.tracks.len());
    assert!(tracks <= 32, "{name}: {found:?}");
    found
}

#[test]
fn types_are_told_by_how_a_file_begins() {
    let padded = |head: &[u8]| [head, &[0; 300]].concat();
    let table: &[(&str, Vec<u8>)] = &[
        ("video/mp4", ftyp(b"isom")),
        ("video/mp4", ftyp(b"iso7")),
        ("video/mp4", ftyp(b"dash")),
        ("video/mp4", ftyp(b"M4VH")),
        ("video/mp4", ftyp(b"\0\0\0\0")),
        ("audio/mp4", ftyp(b"M4A ")),
        ("video/quicktime", ftyp(b"qt  ")),
        ("video/quicktime", [boxed(b"wide", []), mdat(9)].concat()),
        ("video/quicktime", moov()),
        ("video/3gpp", ftyp(b"3gp5")),
        ("video/3gpp2", ftyp(b"3g2a")),
        ("image/heic", ftyp(b"heic")),
        ("image/avif", ftyp(b"avif")),
        ("video/webm", ebml("webm")),
        ("video/x-matroska", ebml("matroska")),
        ("video/x-msvideo", padded(b"RIFF\x10\0\0\0AVI LIST")),
        ("audio/wav", padded(b"RIFF\x10\0\0\0WAVEfmt ")),
        ("audio/flac", padded(b"fLaC\0\0\0\x22")),
        ("audio/ogg", padded(b"OggS\0\x02")),
        ("audio/mpeg", padded(b"ID3\x04")),
        ("video/mp2t", [&[0x47], [0; 187].as_slice()].concat().repeat(5)),
        ("image/png", padded(b"\x89PNG\r\n\x1a\n")),
        ("image/jpeg", padded(b"\xff\xd8\xff\xe0")),
        ("application/pdf", padded(b"%PDF-1.7")),
        ("application/zip", padded(b"PK\x03\x04")),
        ("text/html", b"<!DOCTYPE html><title>x</title>".to_vec()),
        ("text/plain", "1\n00:00:01,000 --> 00:00:02,000\nGrüße\n".into()),
        ("text/plain", "ü".repeat(4_000).into()),
        ("text/plain", format!("a{}", "ü".repeat(4_000)).into()),
        (UNKNOWN, b"text with a \0".to_vec()),
        (UNKNOWN, b"cut in \xc3".to_vec()),
        (UNKNOWN, vec![0x80; 5_000]),
        (UNKNOWN, vec![]),
    ];
    for (expected, head) in table {
        assert_eq!(sniff(head).content_type, *expected, "{:?}", &head[..head.len().min(16)]);
    }
    assert_eq!(sniff(&ftyp(b"isom")).container, Some(Container::IsoBmff));
    assert_eq!(sniff(&ebml("webm")).container, Some(Container::Matroska));
    assert_eq!(sniff(&ftyp(b"heic")).container, Some(Container::IsoBmff));
}

fn film() -> Vec<Track> {
    vec![
        Track {
            width: Some(1920),
            height: Some(1080),
            frames_per_1000_s: Some(29_970),
            ..plain_track(TrackKind::Video, "avc1.640028".to_owned())
        },
        Track {
            channels: Some(2),
            sample_rate_hz: Some(44_100),
            ..plain_track(TrackKind::Audio, "mp4a.40.2".to_owned())
        },
    ]
}

#[test]
fn a_film_says_the_same_wherever_its_headers_are() {
    let size = 3 << 20;
    let long = [&[0, 0, 0, 1], b"mdat".as_slice(), &(size as u64 + 16).to_be_bytes(), &vec![0; size]].concat();
    let open = [&[0; 4], b"mdat".as_slice(), &vec![0; size]].concat();
    for (name, file, blocks) in [
        ("in front", [ftyp(b"isom"), moov(), mdat(size)].concat(), 1),
        ("behind", [ftyp(b"isom"), mdat(size), moov()].concat(), 3),
        ("behind a size of 64 bits", [ftyp(b"isom"), long, moov()].concat(), 3),
        ("before media without a size", [ftyp(b"isom"), boxed(b"free", [0; 99]), moov(), open].concat(), 1),
    ] {
        let found = examine(&file, LIMIT);
        let media = found.facts.media().expect(name);
        assert_eq!((media.duration_ms, &media.tracks), (Some(10_010), &film()), "{name}");
        assert_eq!(found.facts.content_type, "video/mp4");
        assert!(found.fetched_bytes <= blocks * BLOCK_BYTES, "{name}: {} bytes", found.fetched_bytes);
    }
}

#[test]
fn tables_of_samples_are_not_read() {
    let entry = visual(b"avc1", 1920, 1080, avc_config());
    let stsd = boxed(b"stsd", [&[0, 0, 0, 0, 0, 0, 0, 1], entry.as_slice()].concat());
    let times = [stts(&[(300, 1_001)]), boxed(b"ctts", vec![0; 4 << 20])].concat();
    let sizes = boxed(b"stsz", [&[0; 8], 300_u32.to_be_bytes().as_slice(), &vec![0; 4 << 20]].concat());
    let handler = boxed(b"hdlr", [&[0; 8], b"vide".as_slice(), &[0; 13]].concat());
    let times_of_all = numbers(b"mdhd", 0, [0, 0, 30_000, 300_300, 0]);
    let inner = nest(b"minf", [nest(b"stbl", [times, stsd, sizes])]);
    let track = nest(b"trak", [tkhd(3, 1920, 1080, UPRIGHT), nest(b"mdia", [times_of_all, handler, inner])]);
    let file = [ftyp(b"isom"), nest(b"moov", [mvhd(1_000, 10_010), track, audio_track()]), mdat(100)].concat();
    let found = examine(&file, LIMIT);
    assert_eq!(found.facts.media().expect("it can be read").tracks, film());
    assert!(found.fetched_bytes <= 3 * BLOCK_BYTES, "{} bytes", found.fetched_bytes);
}

/// Returns the size at which a picture of 720 by 576 is shown.
fn shown(movie: Vec<u8>, head: Vec<u8>, more: Vec<u8>) -> (u32, u32) {
    let entry = visual(b"avc1", 720, 576, [avc_config(), more].concat());
    let media = media(&[ftyp(b"isom"), nest(b"moov", [movie, trak(head, b"vide", 25, 250, 250, entry)])].concat());
    (media.tracks[0].width.unwrap(), media.tracks[0].height.unwrap())
}

#[test]
fn pictures_are_as_large_as_they_are_shown() {
    let size = |head: Vec<u8>| shown(mvhd(1_000, 10_000), head, vec![]);
    assert_eq!(size(tkhd(3, 1024, 576, UPRIGHT)), (1024, 576), "pixels that are not square");
    assert_eq!(size(tkhd(3, 720, 576, ON_ITS_SIDE)), (576, 720), "a phone held upright");
    assert_eq!(size(tkhd(3, 0, 0, UPRIGHT)), (720, 576), "only how it is stored is known");
    assert_eq!(size(tkhd(3 | 8, 16, 9, UPRIGHT)), (1024, 576), "only the shape is said");
    assert_eq!(size(tkhd(3, 1, 1, UPRIGHT)), (576, 576), "as many lines as there are");
    assert_eq!(size(boxed(b"tkhd", [0; 7])), (720, 576), "unreadable");
    let wide = UPRIGHT.map(|number| if number == 0x1_0000 { 0x2_0000 } else { number });
    let wide = [wide[0], 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];
    assert_eq!(size(tkhd(3, 720, 576, wide)), (1440, 576), "stretched one way");
    let tilted = [46_341, 46_341, 0, 46_341_u32.wrapping_neg(), 46_341, 0, 0, 0, 0x4000_0000];
    assert_eq!(size(tkhd(3, 720, 576, tilted)), (720, 576), "by half a quarter");
    assert_eq!(size(tkhd(3, 720, 576, [0; 9])), (720, 576), "not at all");
    let turned = |movie, track| shown(turned_mvhd(1_000, 10_000, movie), tkhd(3, 720, 576, track), vec![]);
    assert_eq!(turned(ON_ITS_SIDE, UPRIGHT), (576, 720), "the movie is turned");
    assert_eq!(turned(ON_ITS_SIDE, ON_ITS_SIDE), (720, 576), "both are");
    let pasp = boxed(b"pasp", [[0, 0, 0, 10], [0, 0, 0, 11]].as_flattened());
    assert_eq!(
        shown(mvhd(1_000, 1), tkhd(3, 640, 576, UPRIGHT), pasp.clone()),
        (655, 576),
        "the shape of pixels is said"
    );
    assert_eq!(shown(mvhd(1_000, 1), tkhd(3, 640, 576, ON_ITS_SIDE), pasp), (576, 655));
}

#[test]
fn a_duration_of_all_ones_is_none() {
    let film = |duration, own| {
        let track = trak(tkhd(3, 64, 64, UPRIGHT), b"vide", 25, own, 250, visual(b"avc1", 64, 64, avc_config()));
        media(&[ftyp(b"isom"), nest(b"moov", [mvhd(1_000, duration), track])].concat()).duration_ms
    };
    assert_eq!(film(u32::MAX, 250), Some(10_000), "the track knows");
    assert_eq!(film(u32::MAX, u32::MAX), None);
    assert_eq!(film(0, 0), None);
}

#[test]
fn sound_alone_is_named_after_sound() {
    let only = |brand: &[u8; 4], entry: Vec<u8>| {
        let track = trak(tkhd(3, 0, 0, UPRIGHT), b"soun", 96_000, 960_000, 10, entry);
        examine(&[ftyp(brand), nest(b"moov", [mvhd(1_000, 10_000), track])].concat(), LIMIT).facts
    };
    let facts = only(b"isom", sound(b"fLaC", 2, 0, vec![]));
    assert_eq!(facts.content_type, "audio/mp4");
    let track = &facts.media().unwrap().tracks[0];
    assert_eq!((track.codec.as_str(), track.channels), ("flac", Some(2)));
    assert_eq!(track.sample_rate_hz, Some(96_000), "too much for its field, so it is the unit of time");
    assert_eq!(only(b"3gp4", sound(b"samr", 1, 8_000, vec![])).content_type, "audio/3gpp");
    // QuickTime has no name for it.
    let wave = boxed(b"wave", [boxed(b"frma", b"mp4a"), aac_config()].concat());
    let facts = only(b"qt  ", sound(b"mp4a", 1, 44_100, wave));
    assert_eq!(facts.content_type, "video/quicktime");
    let track = &facts.media().unwrap().tracks[0];
    assert_eq!((track.codec.as_str(), track.channels), ("mp4a.40.2", Some(2)));
    // The second version of QuickTime's description.
    let mut body = vec![0; 64];
    body[9] = 2;
    body[32..40].copy_from_slice(&192_000_f64.to_be_bytes());
    body[40..44].copy_from_slice(&6_u32.to_be_bytes());
    let facts = only(b"qt  ", boxed(b"lpcm", body));
    let track = &facts.media().unwrap().tracks[0];
    assert_eq!((track.sample_rate_hz, track.channels), (Some(192_000), Some(6)));
}

#[test]
fn codecs_have_the_names_that_players_know() {
    let named = |name: Option<&str>| name.map(str::to_owned);
    assert_eq!(codec::avc("avc3", &avc_config()[8..]), named(Some("avc3.640028")));
    let hevc = |space: u8, constraints: [u8; 6]| {
        let compatible = [0x60, 0, 0, 0].as_slice();
        codec::hevc(
            "hvc1",
            &[&[1, space | 1], compatible, &constraints, &[93, 0xf0, 0, 0xfc, 0xfd, 0xf8, 0xf8, 0, 0, 0xf, 0]].concat(),
        )
    };
    assert_eq!(hevc(0, [0xb0, 0, 0, 0, 0, 0]), named(Some("hvc1.1.6.L93.b0")));
    assert_eq!(hevc(0x60, [0x90, 0, 1, 0, 0, 0]), named(Some("hvc1.A1.6.H93.90.0.1")));
    assert_eq!(hevc(0, [0; 6]), named(Some("hvc1.1.6.L93")));
    assert_eq!(codec::av1(&[0x81, 0x04, 0x0c, 0x00]), named(Some("av01.0.04M.08")));
    assert_eq!(codec::av1(&[0x81, 0x4d, 0xcc, 0x00]), named(Some("av01.2.13H.10")));
    assert_eq!(codec::vp("vp09", &[1, 0, 0, 0, 0, 10, 0x82, 1, 1, 1, 0, 0]), named(Some("vp09.00.10.08")));
    assert_eq!(codec::mpeg4("mp4a", &aac_config()[8..]).codec, named(Some("mp4a.40.2")));
    assert_eq!(codec::aac(&[0x12, 0x10]), named(Some("mp4a.40.2")));
    // As ffmpeg writes 5.1 and mono.
    assert_eq!(codec::ac3_channels(&[0x10, 0x3d, 0xe0]), Some(6));
    assert_eq!(codec::ac3_channels(&[0x10, 0x09, 0x60]), Some(1));
    assert_eq!(codec::eac3_channels(&[0x0e, 0x00, 0x20, 0x0f, 0x00]), Some(6));
    assert_eq!(codec::eac3_channels(&[0x06, 0x00, 0x20, 0x02, 0x00]), Some(1));
    for garbage in [&[][..], &[1], &[0xff; 9], &[0; 40]] {
        assert_eq!(codec::avc("avc1", garbage).map(|name| name.len()), None, "{garbage:?}");
        assert_eq!(codec::mpeg4("mp4a", garbage).codec, None);
    }
    for (name, expected) in [
        (b"Opus".as_slice(), "opus"),
        (b".mp3", "mp3"),
        (b"twos", "twos"),
        (b"a b ", "a-b"),
        (b"\xa9xyz", "unknown"),
        (b"<b>!", "unknown"),
        (b"    ", "unknown"),
        (&[b'x'; 41], "unknown"),
    ] {
        assert_eq!(codec::plain(name), expected);
    }
}

#[test]
fn webm_and_matroska_say_what_they_have() {
    let found = examine(&webm(), LIMIT);
    assert_eq!(found.facts.content_type, "video/webm");
    let media = found.facts.media().unwrap();
    assert_eq!(media.duration_ms, Some(4_011));
    let video = plain_track(TrackKind::Video, "vp9".to_owned());
    let video = Track { width: Some(640), height: Some(360), frames_per_1000_s: Some(29_970), ..video };
    let audio = plain_track(TrackKind::Audio, "opus".to_owned());
    let audio = Track { channels: Some(2), sample_rate_hz: Some(48_000), ..audio };
    assert_eq!(media.tracks, [video, audio]);

    let of =
        |kind: &str, inner: &[Vec<u8>]| examine(&[ebml(kind), element(&SEGMENT, inner.concat())].concat(), LIMIT).facts;
    let talk = of("webm", &[info(1_000.0), tracks(&[opus_entry()]), cluster(9)]);
    assert_eq!(talk.content_type, "audio/webm");
    let endless = of("webm", &[info(1e19), tracks(&[opus_entry()]), cluster(9)]);
    assert_eq!(endless.duration_ms(), Some((1 << 53) - 1), "the most that JSON can say");
    let subtitles = track_entry(3, 17, "S_TEXT/UTF8", &[]);
    let film = of("matroska", &[tracks(&[vp9_entry(), subtitles]), info(f64::NAN), cluster(9)]);
    assert_eq!(film.content_type, "video/x-matroska");
    let media = film.media().unwrap();
    assert_eq!((media.duration_ms, media.tracks[1].codec.as_str()), (None, "srt"));
    assert_eq!(media.tracks[1].kind, TrackKind::Other);
}

#[test]
fn a_recording_that_was_cut_off_says_what_it_has() {
    let inner = [info(0.0), tracks(&[vp9_entry()]), [&[0x1f, 0x43, 0xb6, 0x75], [0xff].as_slice()].concat()].concat();
    for size in [[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], [0x01, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff]] {
        let file = [ebml("webm"), SEGMENT.to_vec(), size.to_vec(), inner.clone()].concat();
        let media = media(&file);
        assert_eq!((media.duration_ms, media.tracks.len()), (None, 1));
    }
}

#[test]
fn only_the_front_of_matroska_is_looked_at() {
    // The library loops forever on a segment that begins with a checksum.
    let checked = [element(&[0xbf], [0; 4]), info(5.0), tracks(&[vp9_entry()]), cluster(9)].concat();
    assert_eq!(media(&[ebml("webm"), element(&SEGMENT, checked)].concat()).tracks.len(), 1);
    let behind = [info(5.0), cluster(1 << 20), tracks(&[vp9_entry()])].concat();
    let found = examine(&[ebml("webm"), element(&SEGMENT, behind)].concat(), LIMIT);
    assert_eq!(found.facts, Facts { content_type: "video/webm".to_owned(), content: None });
    assert_eq!(found.fetched_bytes, BLOCK_BYTES);
}

#[test]
fn no_more_is_read_than_may_be() {
    let far = [ftyp(b"isom"), mdat(1 << 20), moov()].concat();
    assert!(examine(&far, 3 * BLOCK_BYTES).facts.media().is_some());
    let found = examine(&far, BLOCK_BYTES);
    assert_eq!(found.facts, Facts { content_type: "video/mp4".to_owned(), content: None });
    assert_eq!(found.fetched_bytes, BLOCK_BYTES);
}

#[test]
fn a_window_asks_for_what_it_lacks() {
    let mut window = Window::new(3 * BLOCK_BYTES + 5, 4 * BLOCK_BYTES);
    assert_eq!(window.get(BLOCK_BYTES - 1, 2), Err(ParseStop::Needs(0..2 * BLOCK_BYTES)));
    window.insert(BLOCK_BYTES, vec![1; 64 << 10].into());
    assert_eq!(window.get(BLOCK_BYTES - 1, 2), Err(ParseStop::Needs(0..BLOCK_BYTES)));
    assert_eq!(window.get(BLOCK_BYTES, BLOCK_BYTES + 1), Err(ParseStop::Needs(2 * BLOCK_BYTES..3 * BLOCK_BYTES)));
    window.insert(0, vec![0; 64 << 10].into());
    assert_eq!(&*window.get(BLOCK_BYTES - 1, 2).unwrap(), [0, 1]);
    assert_eq!(window.get(3 * BLOCK_BYTES, 5), Err(ParseStop::Needs(3 * BLOCK_BYTES..3 * BLOCK_BYTES + 5)));
    assert_eq!(
        window.get(2 * BLOCK_BYTES, BLOCK_BYTES + 5),
        Err(ParseStop::Needs(2 * BLOCK_BYTES..3 * BLOCK_BYTES + 5))
    );
    for (start, count) in [(3 * BLOCK_BYTES, 6), (u64::MAX, 2), (0, u64::MAX)] {
        assert_eq!(window.get(start, count), Err(ParseStop::Unreadable), "beyond the end");
    }
    window.insert(2 * BLOCK_BYTES, vec![2; 64 << 10].into());
    let mut tight = Window::new(3 * BLOCK_BYTES, BLOCK_BYTES);
    assert_eq!(tight.get(0, BLOCK_BYTES + 1), Err(ParseStop::Exhausted), "more than may be fetched");
    assert_eq!(tight.next(0, 1), Err(ParseStop::Needs(0..BLOCK_BYTES)), "no further ahead than that");
    tight.insert(0, vec![0; 64 << 10].into());
    assert_eq!(tight.get(BLOCK_BYTES, 1), Err(ParseStop::Exhausted), "nothing may be fetched any more");
    let mut long = Window::new(3 << 20, 16 << 20);
    assert_eq!(long.next(BLOCK_BYTES, 1), Err(ParseStop::Needs(BLOCK_BYTES..BLOCK_BYTES + (1 << 20))));
    long.insert(3 * BLOCK_BYTES, vec![0; 64 << 10].into());
    assert_eq!(
        long.next(BLOCK_BYTES, 1),
        Err(ParseStop::Needs(BLOCK_BYTES..3 * BLOCK_BYTES)),
        "nothing is fetched twice"
    );
    assert_eq!(long.next((3 << 20) - 1, 1), Err(ParseStop::Needs((3 << 20) - BLOCK_BYTES..3 << 20)));
    assert_eq!(long.want(0, 3 << 20), Err(ParseStop::Needs(0..3 * BLOCK_BYTES)));
}

#[test]
fn a_panic_is_nothing_known() {
    assert_eq!(contained(|| 7), Some(7));
    assert_eq!(contained(|| -> u8 { panic!("in a library; this line in the output of the test is in order") }), None);
}

/// Files made to keep a reader busy, or to crash it.
#[test]
fn hostile_files_are_done_with_quickly() {
    let within = |kind: &[u8; 4], inner: Vec<u8>, times: usize| (0..times).fold(inner, |inner, _| boxed(kind, inner));
    let entry = |config: Vec<u8>| trak(tkhd(3, 1, 1, UPRIGHT), b"vide", 1, 1, 1, visual(b"avc1", 1, 1, config));
    let said =
        |config: Vec<u8>| trak(tkhd(3, 0, 0, UPRIGHT), b"soun", 1, 1, 1, sound(b"mp4a", 1, 1, boxed(b"esds", config)));
    let film = |track: Vec<u8>| [ftyp(b"isom"), nest(b"moov", [mvhd(1, 1), track])].concat();
    // Nested descriptors; each claims to contain the whole rest.
    let descriptors: Vec<u8> = (0..20_000).flat_map(|_| [3, 0xff, 0xff, 0x7f, 0, 1, 0]).collect();
    let nested = (0..2_500).fold(vec![], |inner: Vec<u8>, _| {
        let size = u16::try_from(inner.len() + 3).unwrap();
        [&[3, 0x80 | (size >> 7).to_le_bytes()[0], (size & 0x7f).to_le_bytes()[0], 0, 1, 0], inner.as_slice()].concat()
    });
    let sizes = |count: usize| [[0, 0, 0, 8], *b"free"].as_flattened().repeat(count);
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("boxes within boxes", [ftyp(b"isom"), within(b"moov", vec![], 100_000)].concat()),
        ("tracks within tracks", film(within(b"trak", vec![], 50_000))),
        ("entries within entries", film(entry(within(b"avc1", avc_config(), 25_000)))),
        ("movies within entries", film(entry(within(b"moov", moov(), 25_000)))),
        ("endless descriptors", film(said([vec![0; 4], descriptors].concat()))),
        ("nested descriptors", film(said([vec![0; 4], nested.clone()].concat()))),
        ("few nested descriptors", film(said([vec![0; 4], nested[..400].to_vec()].concat()))),
        ("a million boxes", [ftyp(b"isom"), sizes(1_000_000), moov()].concat()),
        ("a million boxes in a movie", [ftyp(b"isom"), boxed(b"moov", sizes(1_000_000))].concat()),
        ("a thousand tracks", [ftyp(b"isom"), boxed(b"moov", video_track().repeat(1_000))].concat()),
        (
            "a box larger than everything",
            [ftyp(b"isom"), [&[0, 0, 0, 1], b"moov".as_slice(), &[0xff; 8]].concat()].concat(),
        ),
        ("a box smaller than its head", [ftyp(b"isom"), [&[0, 0, 0, 7], b"moov".as_slice()].concat()].concat()),
        (
            "a wide box smaller than its head",
            [ftyp(b"isom"), [&[0, 0, 0, 1], b"moov".as_slice(), &15_u64.to_be_bytes()].concat()].concat(),
        ),
        (
            "elements within elements",
            [ebml("webm"), (0..5_000).fold(vec![], |inner, _| element(&SEGMENT, inner))].concat(),
        ),
        ("a million elements", [ebml("webm"), element(&SEGMENT, [0xec, 0x80].repeat(1_000_000))].concat()),
        (
            "a text of exabytes",
            [
                ebml("webm"),
                element(
                    &SEGMENT,
                    [
                        info(1.0),
                        tracks(&[track_entry(
                            1,
                            1,
                            "V",
                            &[vec![0x86, 0x01, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]],
                        )]),
                    ]
                    .concat(),
                ),
            ]
            .concat(),
        ),
        (
            "many entries",
            [ebml("webm"), element(&SEGMENT, [info(1.0), tracks(&vec![opus_entry(); 10_000]), cluster(1)].concat())]
                .concat(),
        ),
    ];
    // As small as a track can be: number, identity, kind, codec.
    let least = [0xae, 0x8d, 0xd7, 0x81, 1, 0x73, 0xc5, 0x81, 1, 0x83, 0x81, 2, 0x86, 0x81, b'A'];
    let least = [info(1.0), element(&[0x16, 0x54, 0xae, 0x6b], least.repeat(60_000)), cluster(1)].concat();
    let least = ("as many entries as fit", [ebml("webm"), element(&SEGMENT, least)].concat());
    for (name, file) in table.into_iter().chain([least]) {
        bounded(name, &file);
    }
}

fn samples() -> Vec<Vec<u8>> {
    let behind = [ftyp(b"qt  "), mdat(70_000), moov()].concat();
    let wave = boxed(b"wave", aac_config());
    let odd = [
        ftyp(b"M4A "),
        nest(b"moov", [mvhd(0, 1), trak(tkhd(1, 9, 9, ON_ITS_SIDE), b"soun", 0, 0, 2, sound(b"mp4a", 0, 0, wave))]),
    ];
    let films = vec![mp4(), behind, webm(), odd.concat(), lengths::fragmented(), lengths::indexed_webm()];
    [films, images::samples(), sound::samples()].concat()
}

#[test]
fn files_that_end_anywhere_are_read_as_far_as_they_go() {
    for file in samples() {
        for end in (0..file.len()).filter(|end| *end < 3_000 || end % 997 == 0) {
            examine(&file[..end], LIMIT);
        }
    }
}

/// A step of Lehmer's generator: the same numbers in every run.
fn next(state: &mut u64) -> usize {
    *state = *state * 48_271 % 0x7fff_ffff;
    usize::try_from(*state).unwrap()
}

const BROKEN: usize = 20_000;

#[test]
fn twenty_thousand_broken_files_do_no_harm() {
    let mut state = 20_261_122;
    let mut readable = 0;
    for file in samples() {
        // Only headers are broken, not media.
        let at: Vec<usize> = (0..file.len()).filter(|at| *at < 2_000 || *at > file.len() - 2_000).collect();
        for _ in 0..BROKEN / samples().len() {
            let mut broken = file.clone();
            for _ in 0..1 + next(&mut state) % 4 {
                let at = at[next(&mut state) % at.len()];
                let values = [0, 1, 0x7f, 0x80, 0xff, broken[at] ^ (1 << (next(&mut state) % 8))];
                broken[at] = values[next(&mut state) % values.len()];
            }
            if next(&mut state).is_multiple_of(8) {
                let (from, to) = (at[next(&mut state) % at.len()], at[next(&mut state) % at.len()]);
                broken.drain(from.min(to)..from.max(to));
            }
            readable += usize::from(bounded("a broken file", &broken).facts.content.is_some());
        }
    }
    assert!(readable > BROKEN / 5, "only {readable} could be read: most must get past the first header");
}

proptest! {
    #[test]
    fn any_bytes_behind_a_header_are_read_to_an_end(which in 0..3_usize, bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let head = [ftyp(b"isom"), ebml("webm"), vec![]][which].clone();
        let file = [head, bytes].concat();
        let found = bounded("any bytes", &file);
        prop_assert!(found.fetched_bytes <= file.len() as u64);
    }

    /// Elements with known names in any order and nesting.
    #[test]
    fn any_elements_are_read_to_an_end(parts in prop::collection::vec((0..14_usize, any::<bool>(), prop::collection::vec(any::<u8>(), 0..20)), 0..40)) {
        let ids: [&[u8]; 14] = [
            &SEGMENT, &[0x15, 0x49, 0xa9, 0x66], &[0x16, 0x54, 0xae, 0x6b], &[0x1f, 0x43, 0xb6, 0x75], &[0xae], &[0xd7], &[0x83],
            &[0x86], &[0xe0], &[0xe1], &[0xb0], &[0x44, 0x89], &[0x2a, 0xd7, 0xb1], &[0xec],
        ];
        let mut inner = Vec::new();
        for (id, wrap, bytes) in parts {
            inner = if wrap { element(ids[id], &inner) } else { [inner, element(ids[id], bytes)].concat() };
        }
        let segment = [info(1.0), tracks(&[vp9_entry()]), inner.clone()].concat();
        bounded("any elements", &[ebml("webm"), element(&SEGMENT, &inner), inner].concat());
        bounded("any elements behind good ones", &[ebml("webm"), element(&SEGMENT, segment)].concat());
    }

    /// Boxes with known names in any order and nesting.
    #[test]
    fn any_boxes_are_read_to_an_end(parts in prop::collection::vec((0..12_usize, any::<bool>(), prop::collection::vec(any::<u8>(), 0..60)), 0..40)) {
        let kinds = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stsz", b"mdhd", b"tkhd", b"hdlr", b"mvex", b"sidx"];
        let mut inner = Vec::new();
        for (kind, wrap, bytes) in parts {
            inner = if wrap { boxed(kinds[kind], &inner) } else { [inner, boxed(kinds[kind], bytes)].concat() };
        }
        let file = [ftyp(b"isom"), boxed(b"moov", &inner), inner].concat();
        bounded("any boxes", &file);
    }

    #[test]
    fn what_is_found_does_not_depend_on_where_blocks_end(before in 0..140_000_usize) {
        let file = [ftyp(b"isom"), mdat(before), moov()].concat();
        prop_assert_eq!(media(&file).tracks, film());
    }
}
