//! Audio files: duration, channels, and sample rate.

use super::*;

/// Returns the duration, channels, rate and codec of an audio file.
fn heard(file: &[u8]) -> (Option<u64>, Option<u32>, Option<u32>, String) {
    let media = media(file);
    let [track] = media.tracks.as_slice() else { panic!("{media:?}") };
    assert_eq!(track.kind, TrackKind::Audio);
    (media.duration_ms, track.channels, track.sample_rate_hz, track.codec.clone())
}

fn of(duration_ms: u64, channels: u32, rate: u32, codec: &str) -> (Option<u64>, Option<u32>, Option<u32>, String) {
    (Some(duration_ms), Some(channels), Some(rate), codec.to_owned())
}

fn riff_chunk(kind: &[u8; 4], size: u32, body: &[u8]) -> Vec<u8> {
    [kind.as_slice(), &size.to_le_bytes(), body, &vec![0; body.len() % 2]].concat()
}

fn format(tag: u16, channels: u16, rate: u32, bits: u16, more: &[u8]) -> Vec<u8> {
    let block = channels * bits.div_ceil(8);
    let body = [
        [tag.to_le_bytes(), channels.to_le_bytes()].concat(),
        [rate.to_le_bytes(), (rate * u32::from(block)).to_le_bytes()].concat(),
        [block.to_le_bytes(), bits.to_le_bytes()].concat(),
        more.to_vec(),
    ];
    let body = body.concat();
    riff_chunk(b"fmt ", u32::try_from(body.len()).unwrap(), &body)
}

fn data(size: u32, bytes: usize) -> Vec<u8> {
    riff_chunk(b"data", size, &vec![0; bytes])
}

fn wav(magic: &[u8; 4], chunks: &[Vec<u8>]) -> Vec<u8> {
    [magic.as_slice(), &[0xff; 4], b"WAVE", &chunks.concat()].concat()
}

#[test]
fn wav_is_as_long_as_its_samples() {
    let stereo = format(1, 2, 8_000, 16, &[]);
    let riff = |chunks: &[Vec<u8>]| heard(&wav(b"RIFF", chunks));
    assert_eq!(riff(&[stereo.clone(), data(64_000, 64_000)]), of(2_000, 2, 8_000, "pcm"));
    let lies = riff_chunk(b"fact", 4, &1_u32.to_le_bytes());
    assert_eq!(riff(&[stereo.clone(), lies.clone(), data(64_000, 64_000)]), of(2_000, 2, 8_000, "pcm"));
    for size in [0, u32::MAX, 900_000] {
        assert_eq!(riff(&[stereo.clone(), data(size, 64_000)]), of(2_000, 2, 8_000, "pcm"), "to the end: {size}");
    }
    let pieces = [stereo.clone(), data(32_000, 32_000), riff_chunk(b"LIST", 3, b"abc"), data(32_000, 32_000)];
    assert_eq!(riff(&pieces), of(2_000, 2, 8_000, "pcm"), "in two pieces");
    let guid = [22, 0, 16, 0, 3, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];
    let float = format(0xfffe, 2, 8_000, 32, &guid);
    assert_eq!(riff(&[float, data(64_000, 64_000)]), of(1_000, 2, 8_000, "pcm-float"));
    assert_eq!(riff(&[format(6, 1, 8_000, 8, &[]), data(8_000, 8_000)]), of(1_000, 1, 8_000, "alaw"));
    let said = riff_chunk(b"fact", 4, &24_000_u32.to_le_bytes());
    assert_eq!(riff(&[format(0x11, 1, 8_000, 4, &[]), said, data(8_000, 8_000)]), of(3_000, 1, 8_000, "adpcm"));
    let long = riff_chunk(b"ds64", 28, &[&[0; 8], 64_000_u64.to_le_bytes().as_slice(), &[0; 12]].concat());
    for magic in [b"RF64", b"BW64"] {
        let file = wav(magic, &[long.clone(), stereo.clone(), data(u32::MAX, 64_000), riff_chunk(b"LIST", 4, b"abcd")]);
        assert_eq!(heard(&file), of(2_000, 2, 8_000, "pcm"));
    }
    for broken in [wav(b"RIFF", &[]), wav(b"RIFF", &[format(1, 0, 8_000, 16, &[])]), wav(b"RIFF", &[data(9, 9)])] {
        assert_eq!(examine(&broken, LIMIT).facts, Facts { content_type: "audio/wav".to_owned(), content: None });
    }
}

fn stream_info(rate: u64, channels: u64, bits: u64, samples: u64) -> Vec<u8> {
    let packed = rate << 44 | (channels - 1) << 41 | (bits - 1) << 36 | samples;
    [&[0; 10], packed.to_be_bytes().as_slice(), &[0; 16]].concat()
}

fn flac(samples: u64, bytes: usize) -> Vec<u8> {
    let picture = [&[0x86, 0, 0x27, 0x10], vec![0; 10_000].as_slice()].concat();
    [b"fLaC\0\0\0\x22".to_vec(), stream_info(44_100, 2, 16, samples), picture, vec![0x55; bytes]].concat()
}

#[test]
fn flac_says_how_long_it_is() {
    assert_eq!(heard(&flac(441_000, 500_000)), of(10_000, 2, 44_100, "flac"));
    assert_eq!(heard(&flac(0, 500_000)).0, None, "the encoder did not know");
    // At least as long as if the same bytes were uncompressed.
    assert_eq!(heard(&flac(1, 1_800_000)), of(9_070, 2, 44_100, "flac"), "it lies");
    let tagged = examine(&[id3(300), flac(441_000, 9)].concat(), LIMIT).facts;
    assert_eq!((tagged.content_type.as_str(), tagged.duration_ms()), ("audio/flac", Some(10_000)));
}

fn id3(bytes: u16) -> Vec<u8> {
    let [high, low] = (bytes << 1 & 0x7f00 | bytes & 0x7f).to_be_bytes();
    [b"ID3\x04\0\0\0\0".as_slice(), &[high, low], &vec![0; bytes.into()]].concat()
}

/// Builds a frame of MP3 at 44,100 Hz; the index is that of a bit rate.
fn mp3_frame(rate_index: u8) -> Vec<u8> {
    let kbps = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320][usize::from(rate_index)];
    let mut frame = vec![0; 144 * kbps * 1_000 / 44_100];
    frame[..4].copy_from_slice(&[0xff, 0xfb, rate_index << 4, 0x64]);
    frame
}

fn with_index(mut frame: Vec<u8>, at: usize, index: &[u8]) -> Vec<u8> {
    frame[at..at + index.len()].copy_from_slice(index);
    frame
}

fn xing(frames: u32, bytes: u32) -> Vec<u8> {
    let index = [b"Xing\0\0\0\x03".as_slice(), &frames.to_be_bytes(), &bytes.to_be_bytes()].concat();
    with_index(mp3_frame(9), 36, &index)
}

#[test]
fn mp3_is_as_long_as_its_frames() {
    let ms = |frames: u64| frames * 1_152_000 / 44_100;
    let frames = mp3_frame(9).repeat(1_000);
    let file = [id3(9_000), frames.clone(), b"TAG".to_vec(), vec![0; 125]].concat();
    assert_eq!(heard(&file), of(ms(1_000), 2, 44_100, "mp3"));
    let mixed = [mp3_frame(14).repeat(500), b"junk".to_vec(), mp3_frame(1).repeat(500)].concat();
    assert_eq!(heard(&mixed).0, Some(ms(1_000)), "frames of two rates");
    let size = u32::try_from(frames.len()).unwrap();
    let said = [xing(1_000, size), frames.clone()].concat();
    assert_eq!(heard(&said).0, Some(ms(1_000)));
    let two = [said.clone(), said.clone()].concat();
    assert_eq!(heard(&two).0, Some(ms(2_002)), "one file behind the other");
    let lies = [with_index(mp3_frame(9), 36, b"Info\0\0\0\x01\0\0\0\x01"), frames.clone()].concat();
    assert_eq!(heard(&lies).0, Some(ms(399)), "so many at the least");
    let vbri = [b"VBRI\0\x01\0\0\0\0".as_slice(), &size.to_be_bytes(), &1_000_u32.to_be_bytes()].concat();
    assert_eq!(heard(&[with_index(mp3_frame(9), 36, &vbri), frames.clone()].concat()).0, Some(ms(1_000)));
    // Larger than may be read: the duration is known only if all frames have one rate.
    let window = 6 * BLOCK_BYTES;
    let long = mp3_frame(9).repeat(3_000);
    let found = examine(&long, window);
    assert_eq!(found.facts.duration_ms(), Some(long.len() as u64 * 1_000 / 16_000));
    assert!(found.fetched_bytes <= 4 * BLOCK_BYTES, "{found:?}");
    for varied in [[long.clone(), mp3_frame(1).repeat(900)].concat(), [mp3_frame(14).repeat(9), long].concat()] {
        let facts = examine(&varied, window).facts;
        assert_eq!((facts.duration_ms(), facts.media().unwrap().tracks.len()), (None, 1));
    }
    assert_eq!(examine(&[id3(10), vec![0x55; 300]].concat(), LIMIT).facts.content, None);
}

/// Builds a frame of AAC at 48,000 Hz in stereo.
fn adts_frame(bytes: u16) -> Vec<u8> {
    let [high, low] = (bytes & 0x7ff).to_be_bytes();
    let mut frame = vec![0x33; bytes.into()];
    let size = [0x80 | (bytes >> 11) as u8, high << 5 | low >> 3, low << 5 | 0x1f];
    frame[..7].copy_from_slice(&[0xff, 0xf1, 0x4c, size[0], size[1], size[2], 0xfc]);
    frame
}

#[test]
fn aac_is_counted_frame_by_frame() {
    let file: Vec<u8> = (0..3_000).flat_map(|place| adts_frame(200 + place % 300)).collect();
    assert_eq!(examine(&file, LIMIT).facts.content_type, "audio/aac");
    assert_eq!(heard(&file), of(64_000, 2, 48_000, "mp4a.40.2"));
    let tagged = examine(&[id3(100), file.clone()].concat(), LIMIT).facts;
    assert_eq!((tagged.content_type.as_str(), tagged.duration_ms()), ("audio/aac", Some(64_000)));
    assert_eq!(examine(&file, 4 * BLOCK_BYTES).facts.duration_ms(), None, "more than may be read");
}

fn page(flags: u8, stream: u32, number: u32, position: u64, body: &[u8]) -> Vec<u8> {
    let mut sizes = vec![255; body.len() / 255];
    sizes.push(u8::try_from(body.len() % 255).unwrap());
    let count = u8::try_from(sizes.len()).unwrap();
    let head = [b"OggS\0".as_slice(), &[flags], &position.to_le_bytes(), &stream.to_le_bytes(), &number.to_le_bytes()];
    [&head.concat(), [0; 4].as_slice(), &[count], &sizes, body].concat()
}

fn vorbis() -> Vec<u8> {
    [b"\x01vorbis\0\0\0\0\x02".as_slice(), &44_100_u32.to_le_bytes(), &[0; 14]].concat()
}

/// Builds a stream with this first packet, whose last page ends at this position.
fn ogg(first: &[u8], last: u64) -> Vec<u8> {
    let pages = (1..4).map(|number| page(0, 7, number, u64::from(number) * 9, &[0x55; 30_000]));
    [vec![page(2, 7, 0, 0, first)], pages.collect(), vec![page(4, 7, 4, last, &[0x55; 300])]].concat().concat()
}

#[test]
fn ogg_is_as_long_as_its_last_page_says() {
    assert_eq!(heard(&ogg(&vorbis(), 441_000)), of(10_000, 2, 44_100, "vorbis"));
    let opus = [b"OpusHead\x01\x01".as_slice(), &312_u16.to_le_bytes(), &16_000_u32.to_le_bytes(), &[0; 3]].concat();
    let file = ogg(&opus, 480_312);
    assert_eq!(heard(&file), of(10_000, 1, 48_000, "opus"));
    assert_eq!(examine(&file, LIMIT).facts.content_type, "audio/ogg");
    let flac = [b"\x7fFLAC\x01\0\0\x01fLaC\0\0\0\x22".to_vec(), stream_info(44_100, 2, 16, 0)].concat();
    assert_eq!(heard(&ogg(&flac, 441_000)), of(10_000, 2, 44_100, "flac"));
    assert_eq!(heard(&ogg(&vorbis(), u64::MAX)).0, Some(0), "no page ends but early ones");
    let slow = [b"\x01vorbis\0\0\0\0\x02".as_slice(), &1_u32.to_le_bytes(), &[0; 14]].concat();
    assert_eq!(heard(&ogg(&slow, u64::MAX - 1)).0, Some((1 << 53) - 1), "the most that JSON can say");

    let theora = {
        let mut head = [b"\x80theora\x03\x02\x01\0\x28\0\x17".as_slice(), &[0; 28]].concat();
        head[14..20].copy_from_slice(&[0, 2, 128, 0, 1, 104]);
        head[22..30].copy_from_slice(&[0, 0, 0, 25, 0, 0, 0, 1]);
        head[30..36].copy_from_slice(&[0, 0, 4, 0, 0, 3]);
        head[40..42].copy_from_slice(&(6_u16 << 5).to_be_bytes());
        head
    };
    let end = page(4, 8, 2, (240 << 6) + 10, &[0x55; 300]);
    let film = [page(2, 8, 0, 0, &theora), ogg(&vorbis(), 44_100), end].concat();
    let facts = examine(&film, LIMIT).facts;
    assert_eq!((facts.content_type.as_str(), facts.duration_ms()), ("video/ogg", Some(10_000)));
    assert_eq!(facts.size(), (Some(853), Some(360)));
}

#[test]
fn ogg_files_behind_each_other_are_of_unknown_length() {
    let other = page(2, 9, 0, 0, &vorbis());
    let chained = [ogg(&vorbis(), 441_000), other, page(4, 9, 1, 9, &[0x55; 300])].concat();
    assert_eq!(heard(&chained).0, None, "of another stream");
    let again = [page(2, 7, 0, 0, &vorbis()), page(0, 7, 1, 9_999_999, &[0x55; 60_000])].concat().repeat(9);
    let again = [again, page(2, 7, 0, 0, &vorbis()), page(4, 7, 1, 9, &[0x55; 300])].concat();
    let [found, whole] =
        [again.clone(), again[..65_000].to_vec()].map(|file| examine(&file, LIMIT).facts.duration_ms());
    assert_eq!((found, whole.is_some()), (None, true), "fewer pages than there must be");
}

pub(super) fn samples() -> Vec<Vec<u8>> {
    vec![
        wav(b"RIFF", &[format(1, 2, 8_000, 16, &[]), data(600, 600)]),
        flac(441_000, 600),
        [id3(300), xing(9, 4_000), mp3_frame(9).repeat(9)].concat(),
        adts_frame(300).repeat(9),
        ogg(&vorbis(), 441_000),
    ]
}
