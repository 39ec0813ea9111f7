//! Durations of films, whatever their headers claim: every known way around a limit is tried here.

use super::*;

const SECOND: u32 = 1_000;

/// Returns the duration of a file of these boxes.
fn duration(boxes: &[Vec<u8>]) -> Option<u64> {
    media(&[vec![ftyp(b"iso5")], boxes.to_vec()].concat().concat()).duration_ms
}

fn film_of(movie_says: u32, track_says: u32, samples: u32, tables: Vec<u8>, extra: Vec<u8>) -> Vec<u8> {
    let entry = entry_list(visual(b"avc1", 64, 64, avc_config()));
    let tables = [entry, tables, numbers(b"stsz", 0, [0, samples])].concat();
    let track = trak_with(tkhd(3, 64, 64, UPRIGHT), b"vide", 25, track_says, tables, extra);
    nest(b"moov", [mvhd(SECOND, movie_says), track])
}

#[test]
fn a_film_is_as_long_as_its_samples() {
    let hour = 25 * 3_600;
    let honest = stts(&[(hour, 1)]);
    for (name, movie, expected) in [
        ("honest", film_of(3_600_000, hour, hour, honest.clone(), vec![]), 3_600_000),
        ("the movie lies", film_of(1, hour, hour, honest.clone(), vec![]), 3_600_000),
        ("movie and track lie", film_of(1, 1, hour, honest.clone(), vec![]), 3_600_000),
        ("no header states it", film_of(0, u32::MAX, hour, honest.clone(), vec![]), 3_600_000),
        ("a short table", film_of(1, 1, hour, stts(&[(1, 1)]), vec![]), 3_600_000),
        ("spans of many kinds", film_of(1, 1, 9, stts(&[(4, 25), (0, 9), (5, 50)]), vec![]), 14_000),
        ("no table", film_of(1, hour, hour, vec![], vec![]), 3_600_000),
        ("it claims more than it has", film_of(9_000_000, 9_000_000, 25, stts(&[(25, 1)]), vec![]), 1_000),
        ("edits show a piece", film_of(10_000, hour, hour, honest.clone(), edits(&[4_000, 6_000])), 10_000),
        ("edits without an end", film_of(1, hour, hour, honest.clone(), edits(&[0])), 3_600_000),
        ("an empty list of edits", film_of(1, hour, hour, honest, edits(&[])), 3_600_000),
    ] {
        assert_eq!(duration(&[movie]), Some(expected), "{name}");
    }
}

#[test]
fn a_long_table_of_samples_is_read_in_pieces() {
    // Entries lie across the ends of blocks.
    for padding in [0, 1, 3, 7] {
        let spans: Vec<(u32, u32)> = (0..40_000).map(|place| (1, place % 3)).collect();
        let movie = film_of(1, 1, 40_000, [boxed(b"free", vec![0; padding]), stts(&spans)].concat(), vec![]);
        let found = examine(&[ftyp(b"isom"), movie, mdat(9)].concat(), LIMIT);
        assert_eq!(found.facts.duration_ms(), Some((0..40_000_u64).map(|place| place % 3).sum::<u64>() * 40));
        assert!(found.looks <= 3, "{found:?}");
    }
    let endless = [vec![0; 4], u32::MAX.to_be_bytes().to_vec(), vec![0xff; 80]].concat();
    let movie = film_of(1, 1, 1, boxed(b"stts", endless), vec![]);
    assert_eq!(duration(&[movie]), Some((1 << 53) - 1), "the most that JSON can say");
}

#[test]
fn the_first_movie_counts_and_its_longest_track() {
    let long = film_of(1, 1, 250, stts(&[(250, 1)]), vec![]);
    let short = film_of(1, 1, 25, stts(&[(25, 1)]), vec![]);
    assert_eq!(duration(&[short.clone(), long.clone()]), Some(1_000), "players take the first");
    assert_eq!(duration(&[long, short]), Some(10_000));
    let silent = trak(tkhd(3, 0, 0, UPRIGHT), b"text", SECOND, 1, 1, boxed(b"text", [0; 8]));
    let track = trak(tkhd(3, 0, 0, UPRIGHT), b"soun", SECOND, 90_000, 9, sound(b"mp4a", 2, 8_000, vec![]));
    let hidden = nest(b"moov", [mvhd(SECOND, 1), silent.repeat(40), track]);
    assert_eq!(duration(&[hidden]), Some(90_000), "after more tracks than are reported");
}

/// Builds a movie whose samples are in fragments; `own` samples of a tenth of a second are in the movie
/// itself.
fn init(own: u32, extra: Vec<u8>) -> Vec<u8> {
    let entry = entry_list(visual(b"avc1", 64, 64, avc_config()));
    let tables = [entry, stts(&[(own, 100)]), numbers(b"stsz", 0, [0, own])].concat();
    let track = trak_with(tkhd(3, 64, 64, UPRIGHT), b"vide", SECOND, own * 100, tables, vec![]);
    let trex = numbers(b"trex", 0, [1, 1, 50, 0, 0]);
    nest(b"moov", [mvhd(SECOND, own * 100), track, nest(b"mvex", [extra, trex])])
}

/// Builds a fragment of ten samples of `sample_ms` milliseconds, with a start time if `begin` is given.
fn fragment(begin: Option<u64>, sample_ms: u32) -> Vec<u8> {
    let tfhd = numbers(b"tfhd", 0x02_0008, [1, sample_ms]);
    let tfdt = begin.map(|begin| boxed(b"tfdt", [vec![1, 0, 0, 0], begin.to_be_bytes().to_vec()].concat()));
    let trun = numbers(b"trun", 1, [10, 0]);
    let moof = nest(b"moof", [numbers(b"mfhd", 0, [1]), nest(b"traf", [tfhd, tfdt.unwrap_or_default(), trun])]);
    [moof, mdat(400)].concat()
}

/// Builds fragments of a second each.
fn seconds(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|place| fragment(Some(place * 1_000), 100)).collect()
}

fn sidx(references: &[(u32, u32)]) -> Vec<u8> {
    let head = [0, 1, SECOND, 0, 0, u32::try_from(references.len()).unwrap()];
    let all = head.into_iter().chain(references.iter().flat_map(|(bytes, units)| [*bytes, *units, 0x9000_0000]));
    boxed(b"sidx", all.flat_map(u32::to_be_bytes).collect::<Vec<_>>())
}

/// Builds the index at the end of a file whose fragments begin at these positions.
fn mfra(places: &[u64]) -> Vec<u8> {
    let entries: Vec<u8> =
        places.iter().flat_map(|place| [[0; 8], place.to_be_bytes()].concat().into_iter().chain([1; 3])).collect();
    let count = u32::try_from(places.len()).unwrap().to_be_bytes();
    let tfra = boxed(b"tfra", [&[1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], count.as_slice(), &entries].concat());
    let size = u32::try_from(tfra.len() + 8 + 16).unwrap();
    nest(b"mfra", [tfra, numbers(b"mfro", 0, [size])])
}

#[test]
fn fragments_are_counted_one_by_one() {
    let mehd = |ms: u32| numbers(b"mehd", 0, [ms]);
    let with = |init: Vec<u8>, fragments: Vec<Vec<u8>>| duration(&[vec![init], fragments].concat());
    assert_eq!(with(init(0, vec![]), seconds(6)), Some(6_000));
    assert_eq!(with(init(10, vec![]), seconds(7)[1..].to_vec()), Some(7_000), "the first second is in the movie");
    assert_eq!(with(init(0, mehd(10)), seconds(6)), Some(6_000), "an announced duration does not count");
    assert_eq!(with(init(0, sidx(&[(9, 9)])), seconds(6)), Some(6_000), "nor does a segment index");
    let wrong = [sidx(&[(500, 10)]), seconds(6).concat()].concat();
    assert_eq!(with(init(0, vec![]), vec![wrong]), Some(6_000), "nor an index that lies");
    let silent: Vec<_> = (0..6).map(|_| fragment(None, 100)).collect();
    assert_eq!(with(init(0, vec![]), silent), Some(6_000), "they follow each other if nothing is said");
    let upon_each_other: Vec<_> = (0..6).map(|_| fragment(Some(0), 100)).collect();
    assert_eq!(with(init(0, vec![]), upon_each_other), Some(6_000), "all begin at once, and players play them all");
    let live: Vec<_> = (1_000_000..1_000_006).map(|second| fragment(Some(second * 1_000), 100)).collect();
    assert_eq!(with(init(0, vec![]), live), Some(6_000), "a broadcast that has gone on for days");
    let gap = vec![fragment(Some(0), 100), fragment(Some(60_000), 100)];
    assert_eq!(with(init(0, vec![]), gap), Some(61_000), "nothing for a minute");
    assert_eq!(with(init(10, vec![]), vec![mdat(100)]), Some(1_000), "announced, and none there");
    let other = film_of(1, 1, 250, stts(&[(250, 1)]), vec![]);
    assert_eq!(with(init(10, vec![]), vec![other]), Some(1_000), "nor does a second movie");
    assert_eq!(with(init(10, vec![]), vec![boxed(b"moof", [9; 40])]), None, "nothing that can be understood");
    let unreadable = nest(b"moof", [nest(b"traf", [numbers(b"tfhd", 0, [1]), numbers(b"trun", 0x100, [900])])]);
    assert_eq!(with(init(10, vec![]), vec![unreadable]), None, "it is unknown");
    let cut = [seconds(6).concat(), vec![0, 0, 1, 0, b'm', b'o', b'o', b'f', 9]].concat();
    assert_eq!(with(init(0, vec![]), vec![cut]), Some(6_000), "cut off");
    let media = media(&[ftyp(b"iso5"), init(0, vec![]), seconds(6).concat()].concat());
    assert_eq!(media.tracks[0].frames_per_1000_s, Some(10_000));
}

#[test]
fn samples_of_fragments_say_how_long_they_are_in_several_ways() {
    let of = |tfhd: Vec<u8>, trun: Vec<u8>| {
        let moof = nest(b"moof", [nest(b"traf", [tfhd, numbers(b"tfdt", 0, [500]), trun])]);
        duration(&[init(0, vec![]), moof, mdat(9)])
    };
    let plain = |flags| numbers(b"tfhd", flags, [1]);
    assert_eq!(of(plain(0), numbers(b"trun", 0, [4])), Some(200), "as the movie says for all");
    let far = numbers(b"tfhd", 0xb, [1, 0, 0, 7, 30]);
    assert_eq!(of(far, numbers(b"trun", 0, [4])), Some(120), "as the fragment says");
    let each = numbers(b"trun", 0xf05, [2, 0, 0, 40, 1, 2, 3, 60, 4, 5, 6]);
    assert_eq!(of(plain(0), each), Some(100), "each sample states its duration");
    assert_eq!(of(plain(0), numbers(b"trun", 0x100, [2, 30, 30])), Some(60));
    assert_eq!(of(plain(0), numbers(b"trun", 0x100, [3, 30, 30])), None, "one is missing");
}

/// Builds more fragments than may be examined, each in a separate block.
fn many() -> (Vec<Vec<u8>>, Vec<u64>) {
    let fragments: Vec<_> = (0..12).map(|place| [fragment(Some(place * 1_000), 100), mdat(70_000)].concat()).collect();
    let from = (ftyp(b"iso5").len() + init(0, vec![]).len()) as u64;
    let places = fragments.iter().scan(from, |at, fragment| {
        let place = *at;
        *at += fragment.len() as u64;
        Some(place)
    });
    (fragments.clone(), places.collect())
}

#[test]
fn an_index_leads_to_the_last_of_many_fragments() {
    let limit = 12 * BLOCK_BYTES;
    let of = |boxes: &[Vec<u8>]| {
        let found = examine(&[vec![ftyp(b"iso5"), init(0, vec![])], boxes.to_vec()].concat().concat(), limit);
        assert_eq!(found.facts.media().map(|media| media.tracks.len()), Some(1), "tracks are known");
        found
    };
    let (fragments, places) = many();
    assert_eq!(of(&fragments).facts.duration_ms(), None, "without one it is not known");
    let indexed = of(&[fragments.clone(), vec![mfra(&places)]].concat());
    assert_eq!(indexed.facts.duration_ms(), Some(12_000));
    assert!(indexed.fetched_bytes <= 4 * BLOCK_BYTES, "{indexed:?}");
    let first_two = of(&[fragments.clone(), vec![mfra(&places[..2])]].concat());
    assert_eq!(first_two.facts.duration_ms(), None, "an index of a few of them is none");
    let references: Vec<_> = fragments.iter().map(|fragment| (u32::try_from(fragment.len()).unwrap(), 1_000)).collect();
    let indexed = of(&[vec![sidx(&references)], fragments.clone()].concat());
    assert_eq!(indexed.facts.duration_ms(), Some(12_000));
    let shorter: Vec<_> = references.iter().map(|(bytes, _)| (*bytes, 1)).collect();
    let lying = of(&[vec![sidx(&shorter)], fragments.clone()].concat());
    assert_eq!(lying.facts.duration_ms(), Some(12_000), "the last fragment knows better");
    let elsewhere: Vec<_> = places.iter().map(|place| place + 4).collect();
    let lying = of(&[fragments, vec![mfra(&elsewhere)]].concat());
    assert_eq!(lying.facts.duration_ms(), None, "no fragment is there");
}

/// A fragment for each frame, as live recorders write them.
#[test]
fn many_small_fragments_are_fetched_together() {
    let file = [ftyp(b"iso5"), init(0, vec![]), seconds(4_000).concat()].concat();
    let found = examine(&file, LIMIT);
    assert_eq!(found.facts.duration_ms(), Some(4_000_000));
    assert!(found.looks <= 5, "{found:?}");
    let file = [ftyp(b"iso5"), init(0, vec![]), seconds(9_000).concat()].concat();
    assert_eq!(examine(&file, LIMIT).facts.duration_ms(), None, "more than are looked at");
}

pub(super) fn fragmented() -> Vec<u8> {
    let (first, second) = (fragment(Some(0), 100), fragment(Some(1_000), 100));
    let places = [(ftyp(b"iso5").len() + init(0, vec![]).len()) as u64];
    [ftyp(b"iso5"), init(0, vec![]), sidx(&[(500, 1_000)]), first, second, mfra(&places)].concat()
}

/// A file with pointers and an index at its end, whose last time is an hour.
pub(super) fn indexed_webm() -> Vec<u8> {
    indexed(4_011.0, 3_600_000)
}

fn indexed(says_ms: f64, last_ms: u32) -> Vec<u8> {
    let point = |ms: u32| element(&[0xbb], element(&[0xb3], ms.to_be_bytes()));
    let cues = element(&[0x1c, 0x53, 0xbb, 0x6b], [point(0), point(last_ms), point(1)].concat());
    let seek_head = |at: u32| {
        let id = element(&[0x53, 0xab], [0x1c, 0x53, 0xbb, 0x6b]);
        element(
            &[0x11, 0x4d, 0x9b, 0x74],
            element(&[0x4d, 0xbb], [id, element(&[0x53, 0xac], at.to_be_bytes())].concat()),
        )
    };
    let inner = [info(says_ms), tracks(&[vp9_entry()]), cluster(90_000)].concat();
    let at = u32::try_from(seek_head(0).len() + inner.len()).unwrap();
    [ebml("webm"), element(&SEGMENT, [seek_head(at), inner, cues].concat())].concat()
}

#[test]
fn an_index_that_goes_on_for_longer_is_believed() {
    assert_eq!(media(&indexed(4_011.0, 3_000)).duration_ms, Some(4_011));
    let found = examine(&indexed_webm(), LIMIT);
    assert_eq!(found.facts.duration_ms(), Some(3_600_000));
    assert!(found.fetched_bytes <= 2 * BLOCK_BYTES, "{found:?}");
    assert_eq!(media(&indexed(0.0, 3_000)).duration_ms, None, "a recording that does not say it");
    let mut broken = indexed_webm();
    broken.truncate(80_000);
    assert_eq!(media(&broken).duration_ms, Some(4_011), "cut off before it");
}
