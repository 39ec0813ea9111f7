//! Parses the header text of ranged PUT into values, and back. Pure: no I/O, no HTTP crate.

use std::fmt;

use base64::Engine as _;

use crate::dialect::{Certainty, Head, Recognised, TargetKind};
use crate::digests::BadDigests;
use domain::checksum::{Algorithm, Digest};
use domain::size::{Length, Offset, parse_bytes};
use edge::body::BodySize;
use edge::fields::{BadField, Fields, LENIENT_BASE64, joined, single};

/// `Content-Range` (RFC 9110, 14.4), with the extensions of Google's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentRange {
    /// `bytes 0-9/10`. A `*` replaces a last byte or a total that is not known yet.
    Bytes { first: Offset, last: Option<Offset>, total: Option<Length> },
    /// `bytes */10` or `bytes */*`: no bytes, only a query.
    Nothing { total: Option<Length> },
}

/// The content of a PUT to an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// No bytes: the request queries the offset, and may declare the length.
    Question {
        total: Option<Length>,
    },
    Data(Data),
}

/// Bytes for an upload, with their description in the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Data {
    pub first: Offset,
    /// The number of bytes, if the head states it.
    pub count: Option<u64>,
    /// The length of the whole, if it is stated.
    pub total: Option<Length>,
    pub end: End,
    /// True if the framing of the body does not announce its size, although `count` does.
    pub unframed: bool,
}

/// The position of a request's last byte in its upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The last byte of the upload.
    Last,
    /// The last byte of the upload if it reaches the total.
    IfTotal,
    /// More bytes follow.
    More,
}

/// The reason why a request is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error(transparent)]
    Field(#[from] BadField),
    #[error(transparent)]
    Digests(#[from] BadDigests),
    #[error("the body of the request has {body} bytes, but its Content-Range declares {range}")]
    OtherCount { body: u64, range: u64 },
    #[error("a request that queries the offset (Content-Range: bytes */…) must not have a body")]
    QuestionWithBody,
    #[error("the X-Goog-Upload-… commands belong to another protocol, which this server does not support")]
    UploadCommands,
    #[error("Content-Range requires an existing upload; send a new upload whole, or start a session first")]
    RangeOfNothing,
}

const CONTENT_RANGE: &str = "content-range";

impl ContentRange {
    pub(crate) fn parse(text: &str) -> Result<Self, BadField> {
        let bad = |problem: &'static str| BadField::new(CONTENT_RANGE, problem);
        let unit = text.get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes "));
        let rest = unit.and_then(|unit| text.get(unit.len()..)).ok_or_else(|| bad(SYNTAX))?;
        let (range, total) = rest.split_once('/').ok_or_else(|| bad(SYNTAX))?;
        let number = |text: &str| if text == "*" { Some(None) } else { parse_bytes(text).map(Some) };
        let total = number(total).ok_or_else(|| bad(SYNTAX))?.and_then(Length::new);
        if range == "*" {
            return Ok(Self::Nothing { total });
        }
        let (first, last) = range.split_once('-').ok_or_else(|| bad(SYNTAX))?;
        let first = parse_bytes(first).and_then(Offset::new).ok_or_else(|| bad(SYNTAX))?;
        let last = number(last).ok_or_else(|| bad(SYNTAX))?.and_then(Offset::new);
        if last.is_some_and(|last| last < first) {
            return Err(bad("ends before its first byte"));
        }
        let reaches = last.unwrap_or(first);
        if total.is_some_and(|total| reaches.get() >= total.get()) {
            return Err(bad("exceeds its own total length"));
        }
        Ok(Self::Bytes { first, last, total })
    }
}

const SYNTAX: &str = "must be `bytes FIRST-LAST/TOTAL`, with * for a last byte or total that is not known yet, or \
                      `bytes */TOTAL` or `bytes */*` to query the offset";

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |number: Option<u64>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        match self {
            Self::Bytes { first, last, total } => {
                let (last, total) = (known(last.map(Offset::get)), known(total.map(Length::get)));
                write!(f, "bytes {first}-{last}/{total}")
            }
            Self::Nothing { total } => write!(f, "bytes */{}", known(total.map(Length::get))),
        }
    }
}

/// Returns the `Range` of a 308 and similar responses: the stored bytes from the first one on. `None` if
/// there are none.
pub(crate) fn range_of(offset: Offset) -> Option<String> {
    offset.get().checked_sub(1).map(|last| format!("bytes=0-{last}"))
}

/// Returns the content of a PUT, according to its head. Without `Content-Range` it is the whole upload.
pub(crate) fn carried(fields: &dyn Fields, body: BodySize) -> Result<Carried, WireError> {
    let Some(range) = single(fields, CONTENT_RANGE)? else {
        let (first, total) = (Offset::ZERO, None);
        return Ok(Carried::Data(Data { first, count: body.known(), total, end: End::Last, unframed: false }));
    };
    let (first, last, total) = match ContentRange::parse(range)? {
        ContentRange::Bytes { first, last, total } => (first, last, total),
        // A body of unknown size may turn out to be empty.
        ContentRange::Nothing { total } if body.known().unwrap_or(0) == 0 => return Ok(Carried::Question { total }),
        ContentRange::Nothing { .. } => return Err(WireError::QuestionWithBody),
    };
    let Some(last) = last else {
        let end = if total.is_some() { End::IfTotal } else { End::More };
        return Ok(Carried::Data(Data { first, count: body.known(), total, end, unframed: false }));
    };
    let range = last.get() - first.get() + 1;
    if let Some(body) = body.known()
        && body != range
    {
        return Err(WireError::OtherCount { body, range });
    }
    let is_last = total.is_some_and(|total| total.get() == last.get() + 1);
    let end = if is_last { End::Last } else { End::More };
    Ok(Carried::Data(Data { first, count: Some(range), total, end, unframed: body == BodySize::Unknown }))
}

/// The request fields of clients.
pub(crate) const REQUEST_FIELDS: [&str; 6] = [
    "Content-Range",
    "X-Upload-Content-Type",
    "X-Upload-Content-Length",
    "X-Goog-Resumable",
    "X-Goog-Hash",
    "X-GUploader-No-308",
];

/// The response fields that clients read.
pub(crate) const ANSWER_FIELDS: [&str; 7] = [
    "Upload-Offset",
    "Upload-Length",
    "Range",
    "X-Goog-Hash",
    "X-Goog-Stored-Content-Length",
    "X-GUploader-UploadID",
    "X-HTTP-Status-Code-Override",
];

/// Marks of Google's sessions, and of another of its protocols, which is rejected where these sessions are
/// supported.
const SESSION_MARKS: [&str; 5] = [
    "x-upload-content-type",
    "x-upload-content-length",
    "x-goog-resumable",
    "x-goog-upload-protocol",
    "x-goog-upload-command",
];

/// Returns whether a creation starts one of Google's sessions.
pub(crate) fn starts_session(query: &str, fields: &dyn Fields) -> bool {
    SESSION_MARKS.iter().any(|name| fields.has(name)) || query.split('&').any(|pair| pair == "uploadType=resumable")
}

/// Recognizes requests of this dialect. The start of a session has marks; whole files and ranges have only
/// the method. `Content-Range` alone is not a mark, but must not occur together with marks of other dialects.
pub(crate) fn recognise(head: &Head<'_>) -> Recognised {
    let is_ranged = head.fields.has(CONTENT_RANGE);
    let is_session = || starts_session(head.query, head.fields);
    let certainty = match (head.target, head.method) {
        (TargetKind::Collection, "POST" | "PUT") if is_session() => Some(Certainty::Hinted),
        (TargetKind::Collection, "POST" | "PUT") => Some(Certainty::Possible),
        (TargetKind::Upload | TargetKind::Name, "PUT") => Some(Certainty::Likely),
        (TargetKind::Upload | TargetKind::Name, "POST") if is_ranged || is_session() => Some(Certainty::Likely),
        (TargetKind::Collection | TargetKind::Upload | TargetKind::Name, _) => None,
    };
    Recognised { certainty, excludes_others: is_ranged }
}

/// Returns whether a PUT carries no bytes but queries the offset of its upload.
pub(crate) fn is_status_query(fields: &dyn Fields) -> bool {
    let range = single(fields, CONTENT_RANGE).ok().flatten().map(ContentRange::parse);
    matches!(range, Some(Ok(ContentRange::Nothing { .. })))
}

/// RFC 9110, 14.5: a `Content-Range` at an address that cannot have ranges must not be taken for the whole.
pub(crate) fn reject_range(fields: &dyn Fields) -> Result<(), WireError> {
    if fields.has(CONTENT_RANGE) { Err(WireError::RangeOfNothing) } else { Ok(()) }
}

pub(crate) fn reject_commands(fields: &dyn Fields) -> Result<(), WireError> {
    let commands = ["x-goog-upload-protocol", "x-goog-upload-command"];
    if commands.iter().any(|name| fields.has(name)) { Err(WireError::UploadCommands) } else { Ok(()) }
}

/// Returns whether the client cannot receive a 308, such as a page in a browser.
pub(crate) fn wants_no_308(fields: &dyn Fields) -> bool {
    matches!(single(fields, "x-guploader-no-308"), Ok(Some(value)) if value.eq_ignore_ascii_case("yes"))
}

/// Parses `X-Goog-Hash: crc32c=…,md5=…`, in one line or several: digests of the whole upload.
pub(crate) fn goog_hashes(fields: &dyn Fields) -> Result<Vec<Digest>, BadField> {
    let Some(list) = joined(fields, "x-goog-hash")? else { return Ok(Vec::new()) };
    let bad = || BadField::new("x-goog-hash", "must be a list of crc32c=BASE64 and md5=BASE64");
    let mut digests = Vec::new();
    for item in list.split(',') {
        let (name, value) = item.trim().split_once('=').ok_or_else(bad)?;
        let algorithm = match name {
            "crc32c" => Algorithm::Crc32c,
            "md5" => Algorithm::Md5,
            _ => return Err(bad()),
        };
        digests.push(base64_digest(algorithm, value).ok_or_else(bad)?);
    }
    Ok(digests)
}

/// Decodes a digest in base64.
pub(crate) fn base64_digest(algorithm: Algorithm, value: &str) -> Option<Digest> {
    Digest::new(algorithm, LENIENT_BASE64.decode(value).ok()?)
}

/// Decodes a digest in hexadecimal.
pub(crate) fn hex_digest(algorithm: Algorithm, value: &str) -> Option<Digest> {
    let pairs = value.as_bytes().chunks(2).map(|pair| {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        match pair {
            [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
            _ => None,
        }
    });
    Digest::new(algorithm, pairs.collect::<Option<_>>()?)
}

/// Returns the number of bytes in a field that contains only this number.
pub(crate) fn length(fields: &dyn Fields, field: &'static str) -> Result<Option<Length>, BadField> {
    let Some(text) = single(fields, field)? else { return Ok(None) };
    let length = parse_bytes(text).and_then(Length::new);
    length.map(Some).ok_or(BadField::new(field, "must be a decimal number of bytes up to 9223372036854775807"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::Text;
    use domain::size::MAX_BYTES;

    fn offset(bytes: u64) -> Offset {
        Offset::new(bytes).unwrap()
    }

    fn bytes(first: u64, last: Option<u64>, total: Option<u64>) -> ContentRange {
        ContentRange::Bytes {
            first: offset(first),
            last: last.map(offset),
            total: total.map(|total| Length::new(total).unwrap()),
        }
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        let nothing = |total: Option<u64>| ContentRange::Nothing { total: total.and_then(Length::new) };
        for (text, expected) in [
            ("bytes 0-9/10", bytes(0, Some(9), Some(10))),
            ("bytes 5-5/10", bytes(5, Some(5), Some(10))),
            ("Bytes 0-9/*", bytes(0, Some(9), None)),
            ("bytes 5-*/*", bytes(5, None, None)),
            ("bytes 5-*/10", bytes(5, None, Some(10))),
            ("bytes 00-09/010", bytes(0, Some(9), Some(10))),
            ("bytes */*", nothing(None)),
            ("bytes */0", nothing(Some(0))),
            ("bytes 9223372036854775806-9223372036854775806/*", bytes(MAX_BYTES - 1, Some(MAX_BYTES - 1), None)),
        ] {
            assert_eq!(ContentRange::parse(text), Ok(expected), "{text}");
        }
        // ranged 23.
        for text in [
            "",
            "bytes",
            "bytes ",
            "bytes 0-9",
            "bytes 0-9/",
            "bytes /10",
            "bytes -9/10",
            "bytes 0-/10",
            "bytes -/10",
            "bytes 9-0/10",
            "bytes 0-10/10",
            "bytes 10-*/10",
            "bytes 0-9/9",
            "bytes 0-0/0",
            "bytes=0-9/10",
            "bytes  0-9/10",
            "bytes 0 - 9 / 10",
            "bytes 0-9/10 ",
            "bytes 0-9/10,10-19/20",
            "items 0-9/10",
            "0-9/10",
            "bytes +0-9/10",
            "bytes 0-+9/10",
            "bytes 0-9/+10",
            "bytes 0x0-0x9/10",
            "bytes 0-9/1e1",
            "bytes *-9/10",
            "bytes *-*/10",
            "bytes **/10",
            "bytes */-1",
            "bytes 0-9223372036854775808/*",
            "bytes */18446744073709551616",
            "bytes 0-9/**",
            "bytes ٠-٩/١٠",
            "byt\u{e9}s 0-9/10",
        ] {
            assert!(ContentRange::parse(text).is_err(), "ranged 23: {text:?}");
        }
    }

    #[test]
    fn a_put_says_what_it_carries() {
        let read = |range: Option<&'static str>, body| {
            let fields: Text = range.map(|range| ("content-range", range)).into_iter().collect();
            carried(&fields, body)
        };
        let data = |first, count, total: Option<u64>, end, unframed| {
            let total = total.and_then(Length::new);
            Ok(Carried::Data(Data { first: offset(first), count, total, end, unframed }))
        };
        let known = BodySize::Known;
        for (range, body, expected) in [
            (None, known(5), data(0, Some(5), None, End::Last, false)),
            (None, known(0), data(0, Some(0), None, End::Last, false)),
            (None, BodySize::Unknown, data(0, None, None, End::Last, false)),
            (Some("bytes 0-4/10"), known(5), data(0, Some(5), Some(10), End::More, false)),
            (Some("bytes 5-9/10"), known(5), data(5, Some(5), Some(10), End::Last, false)),
            (Some("bytes 5-9/*"), known(5), data(5, Some(5), None, End::More, false)),
            (Some("bytes 5-9/10"), BodySize::Unknown, data(5, Some(5), Some(10), End::Last, true)),
            (Some("bytes 5-*/10"), BodySize::Unknown, data(5, None, Some(10), End::IfTotal, false)),
            (Some("bytes 5-*/*"), known(3), data(5, Some(3), None, End::More, false)),
            (Some("bytes 5-9/10"), known(4), Err(WireError::OtherCount { body: 4, range: 5 })),
            (Some("bytes 5-9/10"), known(0), Err(WireError::OtherCount { body: 0, range: 5 })),
            (Some("bytes */10"), known(0), Ok(Carried::Question { total: Length::new(10) })),
            (Some("bytes */*"), known(0), Ok(Carried::Question { total: None })),
            (Some("bytes */10"), known(1), Err(WireError::QuestionWithBody)),
            (Some("bytes */*"), BodySize::Unknown, Ok(Carried::Question { total: None })),
        ] {
            assert_eq!(read(range, body), expected, "{range:?} {body:?}");
        }
        let twice: Text = vec![("content-range", "bytes 0-4/10"), ("content-range", "bytes 0-4/10")];
        assert!(carried(&twice, known(5)).is_err(), "twice, though the same");
    }

    #[test]
    fn hashes_of_the_whole_are_read() {
        let read = |value| goog_hashes(&vec![("x-goog-hash", value)] as &Text);
        let both = read("crc32c=AAAAAA==,md5=1B2M2Y8AsgTpgAmY7PhCfg==").unwrap();
        assert_eq!(both[0], Digest::new(Algorithm::Crc32c, vec![0; 4]).unwrap());
        assert_eq!(both[1].hex(), "d41d8cd98f00b204e9800998ecf8427e");
        let lines: Text = vec![("x-goog-hash", "crc32c=AAAAAA=="), ("x-goog-hash", "md5=1B2M2Y8AsgTpgAmY7PhCfg==")];
        assert_eq!(goog_hashes(&lines).unwrap(), both);
        for wrong in ["crc32c", "crc32c=", "crc32c=AAAA", "md5=AAAAAA==", "sha1=AAAAAA==", "crc32c=AAAAAA==;md5=x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hexadecimal_digests_have_the_right_size() {
        let digest = hex_digest(Algorithm::Crc32c, "00fFa9").map(|digest| digest.hex());
        assert_eq!(digest, None);
        let digest = hex_digest(Algorithm::Crc32c, "00fFa90a").map(|digest| digest.hex());
        assert_eq!(digest.as_deref(), Some("00ffa90a"));
        for wrong in ["", "00ffa90", "00ffa90g", "+0ffa90a", "00ffa90a00", "ääää"] {
            assert_eq!(hex_digest(Algorithm::Crc32c, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_range_ends_one_byte_before_the_offset() {
        assert_eq!(range_of(Offset::ZERO), None);
        assert_eq!(range_of(offset(1)).as_deref(), Some("bytes=0-0"));
        assert_eq!(range_of(offset(262_144)).as_deref(), Some("bytes=0-262143"));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(
            first in 0..=MAX_BYTES / 4,
            more in prop::option::of(0..=MAX_BYTES / 4),
            beyond in prop::option::of(1..=MAX_BYTES / 4),
        ) {
            let last = more.map(|more| first + more);
            let range = bytes(first, last, beyond.map(|beyond| last.unwrap_or(first) + beyond));
            prop_assert_eq!(ContentRange::parse(&range.to_string()), Ok(range));
            let nothing = ContentRange::Nothing { total: beyond.and_then(Length::new) };
            prop_assert_eq!(ContentRange::parse(&nothing.to_string()), Ok(nothing));
        }

        #[test]
        fn no_text_is_too_odd(text in ".{0,40}") {
            let _ = ContentRange::parse(&text);
            let _ = ContentRange::parse(&format!("bytes {text}"));
        }
    }
}
