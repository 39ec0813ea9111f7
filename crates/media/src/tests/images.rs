//! Images: their size as shown, and the number of their frames.

use super::*;
use domain::facts::{Content, Image};

fn still(width: u32, height: u32) -> Image {
    Image { width, height, frames: Some(1), duration_ms: None }
}

/// Builds an Exif block with an orientation, in either byte order.
fn exif(orientation: u16, is_little: bool) -> Vec<u8> {
    let short = |number: u16| if is_little { number.to_le_bytes() } else { number.to_be_bytes() };
    let long = |number: u32| if is_little { number.to_le_bytes() } else { number.to_be_bytes() };
    let field = |tag, value| [&short(tag)[..], &short(3), &long(1), &short(value), &short(0)].concat();
    let head = [if is_little { b"II" } else { b"MM" }.as_slice(), &short(42), &long(8)].concat();
    [head, short(2).to_vec(), field(0x010f, 7), field(0x0112, orientation), long(0).to_vec()].concat()
}

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 2).unwrap();
    [&[0xff, marker], length.to_be_bytes().as_slice(), body].concat()
}

fn jpeg(before: &[Vec<u8>], after: &[Vec<u8>]) -> Vec<u8> {
    let frame = segment(0xc2, &[8, 0, 100, 1, 44, 3, 0, 0, 0]);
    let (before, after) = (before.concat(), after.concat());
    [&[0xff, 0xd8], before.as_slice(), &frame, &after, &segment(0xda, &[0; 6]), &[0x55; 500], &[0xff, 0xd9]].concat()
}

fn app1(exif: &[u8]) -> Vec<u8> {
    segment(0xe1, &[b"Exif\0\0", exif].concat())
}

#[test]
fn a_jpeg_is_shown_as_the_camera_was_held() {
    assert_eq!(image(&jpeg(&[], &[])), still(300, 100));
    for orientation in 0..=9 {
        let expected = if (5..=8).contains(&orientation) { still(100, 300) } else { still(300, 100) };
        for is_little in [false, true] {
            let block = app1(&exif(orientation, is_little));
            assert_eq!(image(&jpeg(std::slice::from_ref(&block), &[])), expected, "{orientation}");
            assert_eq!(image(&jpeg(&[], &[block])), expected, "behind the size: {orientation}");
        }
    }
    let other = segment(0xe1, b"http://ns.adobe.com/xap/1.0/\0");
    assert_eq!(image(&jpeg(&[other, app1(&exif(6, false)), app1(&exif(1, false))], &[])), still(100, 300));
    // A profile and previews of several hundred KB.
    let large = vec![segment(0xe2, &vec![0; 65_000]); 9];
    let found = examine(&jpeg(&large, &[]), LIMIT);
    assert_eq!(found.facts.size(), (Some(300), Some(100)));
    assert!(found.fetched_bytes <= 10 * BLOCK_BYTES, "{found:?}");
    for broken in [&[0xff, 0xd8, 0xff][..], &[0xff, 0xd8, 0xff, 0xe0, 0, 0], &jpeg(&[], &[])[..9]] {
        assert_eq!(examine(broken, LIMIT).facts, Facts { content_type: "image/jpeg".to_owned(), content: None });
    }
}

fn png_chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes(), kind.as_slice(), body, &[0; 4]].concat()
}

fn png(chunks: &[Vec<u8>]) -> Vec<u8> {
    let size = [300_u32.to_be_bytes(), 100_u32.to_be_bytes()].concat();
    let header = png_chunk(b"IHDR", &[size.as_slice(), &[8, 6, 0, 0, 0]].concat());
    [b"\x89PNG\r\n\x1a\n".as_slice(), &header, &chunks.concat(), &png_chunk(b"IEND", &[])].concat()
}

fn frame_control(numerator: u16, denominator: u16) -> Vec<u8> {
    let delay = [numerator.to_be_bytes(), denominator.to_be_bytes()].concat();
    png_chunk(b"fcTL", &[&[0; 20], delay.as_slice(), &[0, 0]].concat())
}

fn animated_png(said: u32, delays: &[(u16, u16)]) -> Vec<u8> {
    let mut chunks = vec![png_chunk(b"acTL", &[said.to_be_bytes(), [0; 4]].concat())];
    for (place, (numerator, denominator)) in delays.iter().enumerate() {
        let data = if place == 0 { b"IDAT" } else { b"fdAT" };
        chunks.extend([
            frame_control(*numerator, *denominator),
            png_chunk(data, &[0; 900]),
            png_chunk(data, &[0; 900]),
        ]);
    }
    png(&chunks)
}

#[test]
fn a_png_is_a_still_unless_it_says_so_in_front() {
    let data = png_chunk(b"IDAT", &[0; 90]);
    assert_eq!(image(&png(std::slice::from_ref(&data))), still(300, 100));
    assert_eq!(image(&png(&[png_chunk(b"eXIf", &exif(8, false)), data.clone()])), still(100, 300));
    // Browsers show only the default image if the animation is announced behind it.
    let late = [data.clone(), png_chunk(b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]), frame_control(1, 1), frame_control(1, 1)];
    assert_eq!(image(&png(&late)), still(300, 100));
    let animated = |frames, duration_ms| Image { frames: Some(frames), duration_ms, ..still(300, 100) };
    assert_eq!(image(&animated_png(3, &[(1, 25), (2, 0), (0, 9)])), animated(3, Some(40 + 20 + 100)));
    assert_eq!(image(&animated_png(1, &[(1, 1), (7_200, 1)])), animated(2, Some(7_201_000)), "it says one and has two");
    assert_eq!(image(&animated_png(9, &[(1, 1)])), animated(1, None), "it says nine and has one");
    let found = examine(&animated_png(2_000, &vec![(1, 10); 2_000]), LIMIT);
    assert_eq!(found.facts.duration_ms(), Some(200_000));
    assert!(found.looks <= 6, "{} looks", found.looks);
    let cut = examine(&animated_png(2_000, &vec![(1, 10); 2_000]), 2 * BLOCK_BYTES).facts;
    let unknown = Image { frames: Some(2_000), duration_ms: None, ..still(300, 100) };
    assert_eq!(cut.content, Some(Content::Image(unknown)), "as it says, if it cannot be counted");
    assert_eq!(examine(b"\x89PNG\r\n\x1a\n and so on and on", LIMIT).facts.content, None);
}

/// Builds a picture of a GIF with a delay in hundredths of a second.
fn gif_frame(delay: u16, is_told: bool) -> Vec<u8> {
    let [low, high] = delay.to_le_bytes();
    let control = if is_told { vec![0x21, 0xf9, 4, 0, low, high, 0, 0] } else { vec![] };
    let picture =
        [&[0x2c, 0, 0, 0, 0, 9, 0, 9, 0, 0x80, 0, 0, 0, 1, 1, 1, 8, 255], [7; 255].as_slice(), &[3, 0, 0, 0, 0]];
    [control, picture.concat()].concat()
}

fn gif(frames: &[Vec<u8>]) -> Vec<u8> {
    let comment = [&[0x21, 0xfe, 5], b"hello".as_slice(), &[0]].concat();
    [b"GIF89a\x2c\x01\x64\x00\x91\0\0".as_slice(), &[9; 12], &comment, &frames.concat(), &[0x3b]].concat()
}

#[test]
fn a_gif_has_as_many_frames_as_pictures() {
    assert_eq!(image(&gif(&[gif_frame(50, true)])), still(300, 100));
    let animated =
        |frames, duration_ms| Image { frames: Some(frames), duration_ms: Some(duration_ms), ..still(300, 100) };
    let frames = [gif_frame(50, true), gif_frame(0, true), gif_frame(1, false), gif_frame(2, true)];
    assert_eq!(image(&gif(&frames)), animated(4, 500 + 100 + 100 + 20));
    let mut endless = gif(&frames);
    endless.pop();
    assert_eq!(image(&endless), animated(4, 720), "without a trailer");
    let long = gif(&vec![gif_frame(6_000, true); 5_000]);
    let found = examine(&long, LIMIT);
    assert_eq!(found.facts.duration_ms(), Some(300_000_000));
    assert!(found.looks <= 4 && found.fetched_bytes <= long.len() as u64 + BLOCK_BYTES, "{found:?}");
    let unknown = Image { frames: None, ..still(300, 100) };
    assert_eq!(examine(&long, 4 * BLOCK_BYTES).facts.content, Some(Content::Image(unknown)), "more than may be read");
    assert_eq!(examine(b"GIF89a", LIMIT).facts.content, None);
}

fn riff_chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let padding = vec![0; body.len() % 2];
    [kind.as_slice(), &u32::try_from(body.len()).unwrap().to_le_bytes(), body, &padding].concat()
}

fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
    let inner = [b"WEBP".to_vec(), chunks.concat()].concat();
    riff_chunk(b"RIFF", &inner)
}

fn canvas(flags: u8) -> Vec<u8> {
    riff_chunk(b"VP8X", &[flags, 0, 0, 0, 0x2b, 1, 0, 99, 0, 0])
}

fn webp_frame(delay_ms: u8) -> Vec<u8> {
    riff_chunk(b"ANMF", &[&[0; 12], [delay_ms, 0, 0, 0].as_slice(), &[0; 99]].concat())
}

#[test]
fn a_webp_of_any_kind_has_a_size() {
    let lossy = riff_chunk(b"VP8 ", &[0x50, 1, 0, 0x9d, 1, 0x2a, 0x2c, 0x41, 100, 0, 0, 0]);
    assert_eq!(image(&webp(std::slice::from_ref(&lossy))), still(300, 100), "two bits are a scale");
    let bits = 299_u32 | 99 << 14 | 1 << 28;
    let lossless = riff_chunk(b"VP8L", &[&[0x2f], bits.to_le_bytes().as_slice(), &[0; 9]].concat());
    assert_eq!(image(&webp(&[lossless])), still(300, 100));
    assert_eq!(image(&webp(&[canvas(0x10), lossy.clone()])), still(300, 100));
    let turned = [canvas(0x08), lossy.clone(), riff_chunk(b"EXIF", &exif(6, true))];
    assert_eq!(image(&webp(&turned)), still(100, 300));
    let turned = [canvas(0x08), lossy, riff_chunk(b"EXIF", &[b"Exif\0\0".as_slice(), &exif(6, true)].concat())];
    assert_eq!(image(&webp(&turned)), still(100, 300));
    let frames = [canvas(0x02), riff_chunk(b"ANIM", &[0; 6]), webp_frame(40), webp_frame(0), webp_frame(200)];
    let animated = Image { frames: Some(3), duration_ms: Some(40 + 100 + 200), ..still(300, 100) };
    assert_eq!(image(&webp(&frames)), animated);
    assert_eq!(examine(&webp(&[riff_chunk(b"VP8 ", &[0; 12])]), LIMIT).facts.content, None);
}

fn property(kind: &[u8; 4], numbers: &[u32]) -> Vec<u8> {
    boxed(kind, numbers.iter().copied().flat_map(u32::to_be_bytes).collect::<Vec<_>>())
}

/// Builds the `meta` of an image, whose primary item has all properties, in this order.
fn meta(properties: &[Vec<u8>]) -> Vec<u8> {
    let count = u8::try_from(properties.len()).unwrap();
    let other = [&[0, 7, 1], [0x81].as_slice()].concat();
    let own: Vec<u8> = [vec![0, 9, count], (1..=count).map(|place| place | 0x80).collect()].concat();
    let ipma = boxed(b"ipma", [vec![0, 0, 0, 0, 0, 0, 0, 2], other, own].concat());
    let iprp = nest(b"iprp", [boxed(b"ipco", properties.concat()), ipma]);
    let pitm = boxed(b"pitm", [0, 0, 0, 0, 0, 9]);
    boxed(b"meta", [vec![0; 4], pitm, iprp].concat())
}

fn heic(properties: &[Vec<u8>]) -> Vec<u8> {
    [ftyp(b"heic"), meta(properties), mdat(300)].concat()
}

fn sequence(handler: &[u8; 4]) -> Vec<u8> {
    let entry = visual(b"av01", 64, 48, vec![]);
    nest(b"moov", [mvhd(1_000, 400), trak(tkhd(3, 64, 48, UPRIGHT), handler, 1_000, 400, 10, entry)])
}

#[test]
fn heic_and_avif_are_shown_as_their_properties_say() {
    let (size, turn) = (property(b"ispe", &[0, 300, 100]), |quarters: u8| boxed(b"irot", [quarters]));
    assert_eq!(image(&heic(std::slice::from_ref(&size))), still(300, 100));
    for (quarters, expected) in [(0, still(300, 100)), (1, still(100, 300)), (2, still(300, 100)), (3, still(100, 300))]
    {
        assert_eq!(image(&heic(&[size.clone(), turn(quarters)])), expected);
    }
    let cut = property(b"clap", &[200, 1, 181, 2, 0, 1, 0, 1]);
    assert_eq!(image(&heic(&[size.clone(), boxed(b"imir", [1]), cut.clone(), turn(1)])), still(91, 200));
    assert_eq!(image(&heic(&[size.clone(), turn(1), cut])), still(200, 91), "in the order they are in");
    assert_eq!(examine(&heic(&[]), LIMIT).facts.content, None);
    assert_eq!(examine(&[ftyp(b"mif1"), mdat(9)].concat(), LIMIT).facts.content_type, "image/heif");
    let of_codec = [&[0, 0, 0, 24], b"ftypmif1\0\0\0\0mif1avif".as_slice()].concat();
    assert_eq!(examine(&of_codec, LIMIT).facts.content_type, "image/avif");

    let animated = Image { frames: Some(10), duration_ms: Some(400), ..still(300, 100) };
    let with_still = [ftyp(b"avis"), meta(std::slice::from_ref(&size)), sequence(b"pict"), mdat(300)].concat();
    assert_eq!(image(&with_still), animated);
    let hidden = [ftyp(b"heic"), meta(&[size]), mdat(300), sequence(b"pict")].concat();
    assert_eq!(image(&hidden), animated, "wherever it is");
    assert_eq!(image(&[ftyp(b"avis"), sequence(b"pict")].concat()), Image { width: 64, height: 48, ..animated });
}

/// Raw photos of Canon keep their pictures in tracks.
#[test]
fn a_raw_photo_is_no_film() {
    let picture = |kind: &[u8; 4], width| {
        let entry = visual(kind, width, 40, vec![]);
        trak(tkhd(3, width.into(), 40, UPRIGHT), b"vide", 1, 1, 1, entry)
    };
    let photo = |last| nest(b"moov", [mvhd(1, 1), picture(b"CRAW", 60), picture(b"CRAW", 16), last]);
    assert_eq!(image(&[ftyp(b"crx "), photo(picture(b"CRAW", 9))].concat()), still(60, 40));
    let hidden = examine(&[ftyp(b"crx "), photo(video_track())].concat(), LIMIT).facts;
    assert_eq!((hidden.content_type.as_str(), hidden.duration_ms()), ("video/mp4", Some(10_010)));
}

/// A file that names itself an image, or has an unknown name, is a film if it contains one.
#[test]
fn a_film_is_a_film_by_any_name() {
    let film = nest(b"moov", [mvhd(1_000, 10_010), video_track(), audio_track()]);
    let padding = boxed(b"uuid", [0; 40]);
    for (name, file) in [
        ("an image", [ftyp(b"heic"), film.clone()].concat()),
        ("an unknown brand", [boxed(b"ftyp", b"abcd\0\0\0\0"), film.clone()].concat()),
        ("no brand", [boxed(b"ftyp", b""), film.clone()].concat()),
        ("padding in front", [padding.clone(), ftyp(b"isom"), film.clone()].concat()),
        ("an index in front", [boxed(b"sidx", [0; 24]), padding, film].concat()),
    ] {
        let facts = examine(&file, LIMIT).facts;
        assert_eq!((facts.content_type.as_str(), facts.duration_ms()), ("video/mp4", Some(10_010)), "{name}");
    }
    let void = element(&[0xec], [0; 400]);
    let name = [void, element(&[0x42, 0x82], b"webm")].concat();
    let inner = [info(5.0), tracks(&[vp9_entry()]), cluster(9)].concat();
    let segment = element(&SEGMENT, inner);
    let ebml = |inner: &[u8]| element(&[0x1a, 0x45, 0xdf, 0xa3], inner);
    assert_eq!(examine(&[ebml(&[]), segment.clone()].concat(), LIMIT).facts.content_type, "video/x-matroska");
    assert_eq!(examine(&[ebml(&name), segment].concat(), LIMIT).facts.duration_ms(), Some(5));
}

pub(super) fn samples() -> Vec<Vec<u8>> {
    let size = property(b"ispe", &[0, 300, 100]);
    vec![
        jpeg(&[app1(&exif(6, true))], &[]),
        animated_png(3, &[(1, 25), (2, 0), (0, 9)]),
        gif(&[gif_frame(50, true), gif_frame(1, false)]),
        webp(&[canvas(0x0a), webp_frame(40), webp_frame(9), riff_chunk(b"EXIF", &exif(6, true))]),
        [ftyp(b"avis"), meta(&[size, boxed(b"irot", [1])]), sequence(b"pict"), mdat(300)].concat(),
    ]
}
