//! A film of a few hundred bytes: handwritten MP4 headers, and no pictures.

fn boxed(kind: &[u8; 4], inner: &[Vec<u8>]) -> Vec<u8> {
    let body = inner.concat();
    let size = u32::try_from(body.len() + 8).unwrap();
    [&size.to_be_bytes(), kind.as_slice(), &body].concat()
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().copied().flat_map(u32::to_be_bytes).collect()
}

/// Returns a film of 1280 by 720 at 25 frames a second, of this many milliseconds, with its headers before or
/// after `media` bytes.
pub fn film(duration_ms: u32, media: usize, in_front: bool) -> Vec<u8> {
    let matrix = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];
    let movie = [&[0, 0, 0, 1_000, duration_ms, 0x1_0000, 0, 0, 0], matrix.as_slice(), &[0; 7]].concat();
    let head = [&[3, 0, 0, 1, 0, duration_ms, 0, 0, 0, 0], matrix.as_slice(), &[1280 << 16, 720 << 16]].concat();
    let mut entry = vec![0; 78];
    entry[24..28].copy_from_slice(&[5, 0, 2, 0xd0]);
    let config = boxed(b"avcC", &[vec![1, 0x64, 0, 0x1f, 0xff, 0xe0, 0]]);
    let description = boxed(b"stsd", &[numbers(&[0, 1]), boxed(b"avc1", &[entry, config])]);
    let sizes = boxed(b"stsz", &[numbers(&[0, 100, duration_ms / 40])]);
    let tables = boxed(b"minf", &[boxed(b"stbl", &[description, sizes])]);
    let handler = boxed(b"hdlr", &[vec![0; 8], b"vide".to_vec(), vec![0; 13]]);
    let times = boxed(b"mdhd", &[numbers(&[0, 0, 0, 1_000, duration_ms, 0])]);
    let track = boxed(b"trak", &[boxed(b"tkhd", &[numbers(&head)]), boxed(b"mdia", &[times, handler, tables])]);
    let headers = boxed(b"moov", &[boxed(b"mvhd", &[numbers(&movie)]), track]);
    let media = boxed(b"mdat", &[vec![0x5a; media]]);
    let kind = boxed(b"ftyp", &[b"isom\0\0\x02\0isomavc1".to_vec()]);
    if in_front { [kind, headers, media].concat() } else { [kind, media, headers].concat() }
}
