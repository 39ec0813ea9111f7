//! Matroska and `WebM`: sizes as shown, and codecs under other names.

use super::*;

/// Returns the first track of a file with one entry.
fn track(kind: u8, codec: &str, more: &[Vec<u8>]) -> Track {
    let entry = track_entry(1, kind, codec, more);
    let inner = [info(5.0), tracks(&[entry]), cluster(9)].concat();
    media(&[ebml("matroska"), element(&SEGMENT, inner)].concat()).tracks.remove(0)
}

/// Returns the size at which a picture of 720 by 480 with these elements is shown.
fn shown(more: &[Vec<u8>]) -> (Option<u32>, Option<u32>) {
    let size = [number(0xb0, 720), number(0xba, 480)].concat();
    let video = element(&[0xe0], [size, more.concat()].concat());
    let track = track(1, "V_VP9", &[video]);
    (track.width, track.height)
}

fn number(id: u16, value: u16) -> Vec<u8> {
    let id = id.to_be_bytes();
    element(if id[0] == 0 { &id[1..] } else { &id }, value.to_be_bytes())
}

fn display(width: u16, height: u16, unit: u16) -> [Vec<u8>; 3] {
    [number(0x54b0, width), number(0x54ba, height), number(0x54b2, unit)]
}

fn roll(degrees: f32) -> Vec<u8> {
    let pose = element(&[0x76, 0x75], degrees.to_be_bytes());
    element(&[0x76, 0x70], [number(0x7671, 0), pose].concat())
}

#[test]
fn pictures_are_as_large_as_matroska_shows_them() {
    let size = |width, height| (Some(width), Some(height));
    assert_eq!(shown(&[]), size(720, 480));
    assert_eq!(shown(&display(853, 480, 0)), size(853, 480), "in pixels");
    for unit in [1, 2, 3] {
        assert_eq!(shown(&display(16, 9, unit)), size(853, 480), "a shape: {unit}");
    }
    assert_eq!(shown(&display(16, 9, 4)), size(720, 480), "of no known unit");
    assert_eq!(shown(&display(0, 9, 0)), size(720, 480));
    for (degrees, turned) in
        [(90.0, true), (-90.0, true), (89.5, true), (0.0, false), (180.0, false), (45.0, false), (f32::NAN, false)]
    {
        let expected = if turned { size(480, 853) } else { size(853, 480) };
        let all = [display(16, 9, 3).as_slice(), &[roll(degrees)]].concat();
        assert_eq!(shown(&all), expected, "{degrees}");
    }
    let crops = [number(0x54cc, 10), number(0x54dd, 20), number(0x54bb, 4), number(0x54aa, 6)];
    assert_eq!(shown(&crops), size(690, 470), "the cropped part is not shown");
    assert_eq!(shown(&[display(690, 470, 0).as_slice(), &crops].concat()), size(690, 470), "and not cut off twice");
    assert_eq!(shown(&[number(0x54cc, 720)]), (None, None), "nothing is left");
}

#[test]
fn codecs_of_windows_are_named_in_their_headers() {
    let bitmap = [&[0; 16], b"FFV1".as_slice(), &[0; 20]].concat();
    let private = |bytes: &[u8]| element(&[0x63, 0xa2], bytes);
    assert_eq!(track(1, "V_MS/VFW/FOURCC", &[private(&bitmap)]).codec, "ffv1");
    assert_eq!(track(1, "V_MS/VFW/FOURCC", &[private(&[1; 9])]).codec, "ms/vfw/fourcc");
    assert_eq!(track(2, "A_MS/ACM", &[private(&[2, 0, 1, 0])]).codec, "adpcm");
    let plain = track(2, "A_PCM/INT/LIT", &[]);
    assert_eq!((plain.channels, plain.sample_rate_hz), (Some(1), Some(8_000)), "the defaults of the format");
}
