//! Parses header text into commands, and back. Pure: no I/O, no HTTP crate.

use std::time::Duration;

use crate::dialect::{Certainty, Head, Recognised};
use crate::digests::BadDigests;
use crate::ietf::disposition;
use crate::ietf::draft::DraftVersion;
use crate::metadata::{PARTIAL_UPLOAD, is_of_a_protocol};
use crate::structured::{boolean, integer};
use crate::{digests, metadata};
use domain::checksum::{Algorithm, Digest};
use domain::metadata::Metadata;
use domain::size::{Length, Offset};
use edge::fields::{BadField, Fields, single};
use engine::command::CompletesUpload;

/// The reason why a request is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Field(#[from] BadField),
    #[error(transparent)]
    Digests(#[from] BadDigests),
    #[error("an append must have Content-Type: {PARTIAL_UPLOAD}")]
    MediaType,
    #[error("the file name and types have {size} bytes; the limit is {limit} (limits.max_metadata_size)")]
    TooLarge { size: usize, limit: usize },
    #[error("the body of the request has {content} bytes, which does not fit the declared upload length of {length}")]
    InconsistentLength { content: u64, length: Length },
}

/// A parsed creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Creation {
    pub length: Option<Length>,
    pub ends: CompletesUpload,
    pub metadata: Metadata,
    pub checksum: Option<Digest>,
    pub wanted_digests: Vec<Algorithm>,
    pub promised_digests: Vec<Digest>,
}

/// A parsed append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IetfAppend {
    pub at: Offset,
    pub length: Option<Length>,
    pub ends: CompletesUpload,
    pub checksum: Option<Digest>,
}

/// The request fields of clients.
pub(crate) const REQUEST_FIELDS: [&str; 8] = [
    "Upload-Complete",
    "Upload-Incomplete",
    "Upload-Draft-Interop-Version",
    "Incremental",
    "Upload-Length",
    "Upload-Offset",
    "Content-Disposition",
    "Content-Encoding",
];

/// The response fields that clients read.
pub(crate) const ANSWER_FIELDS: [&str; 7] = [
    "Upload-Offset",
    "Upload-Length",
    "Upload-Complete",
    "Upload-Incomplete",
    "Upload-Limit",
    "Upload-Draft-Interop-Version",
    "Accept-Patch",
];

/// Recognizes requests of this dialect. The field for completeness is its mark. A version is only a hint,
/// because some clients send it with every request; so is the media type, because a client may assume that
/// the server supports only this dialect.
pub(super) fn recognise(head: &Head<'_>) -> Recognised {
    if head.has_any(&["upload-complete", "upload-incomplete"]) {
        return Recognised { certainty: Some(Certainty::Marked), excludes_others: true };
    }
    let is_typed = || head.method == "PATCH" && head.media_type().as_deref() == Some(PARTIAL_UPLOAD);
    let is_hinted = head.fields.has("upload-draft-interop-version") || is_typed();
    Recognised { certainty: is_hinted.then_some(Certainty::Hinted), excludes_others: false }
}

/// Parses a creation that carries `count` bytes, if their number is known. Returns `None` if it is not a
/// creation of an upload resource but the conventional upload of a file.
pub(super) fn creation(
    draft: &DraftVersion,
    fields: &dyn Fields,
    count: Option<u64>,
    max_metadata_bytes: usize,
) -> Result<Option<Creation>, WireError> {
    let Some(is_end) = is_end(draft, fields) else { return Ok(None) };
    // An upload starts at offset 0.
    if !matches!(natural(fields, "upload-offset"), None | Some(0)) {
        return Err(BadField::new("upload-offset", "must be 0 when an upload is created").into());
    }
    let mut length = length(fields)?;
    if let Some(content) = count {
        let fits = |length: Length| if is_end { length.get() == content } else { length.get() >= content };
        if let Some(length) = length.filter(|length| !fits(*length)) {
            return Err(WireError::InconsistentLength { content, length });
        }
        if is_end {
            length = Some(Length::new(content).ok_or(BadField::new("content-length", "is too large"))?);
        }
    }
    let nothing_to_send = length.is_some_and(|length| length.get() == 0) && count == Some(0);
    let ends =
        if is_end || (draft.silence_ends && nothing_to_send) { CompletesUpload::Here } else { CompletesUpload::Later };
    Ok(Some(Creation {
        length,
        ends,
        metadata: described(fields, max_metadata_bytes)?,
        checksum: digests::content(fields)?,
        wanted_digests: digests::wanted(fields),
        promised_digests: digests::promised(fields)?,
    }))
}

/// Parses an append that carries `count` bytes, if their number is known.
pub(super) fn append(draft: &DraftVersion, fields: &dyn Fields, count: Option<u64>) -> Result<IetfAppend, WireError> {
    if draft.typed_appends && media_type(fields).as_deref() != Some(PARTIAL_UPLOAD) {
        return Err(WireError::MediaType);
    }
    let at = natural(fields, "upload-offset").and_then(Offset::new).ok_or(missing("upload-offset"))?;
    let length = length(fields)?;
    let nothing_to_send = count == Some(0) && length.is_some_and(|length| length.get() == at.get());
    let silence = (draft.silence_ends && nothing_to_send).then_some(true);
    let is_end = is_end(draft, fields).or(silence).ok_or(completeness_missing(draft))?;
    let ends = if is_end { CompletesUpload::Here } else { CompletesUpload::Later };
    Ok(IetfAppend { at, length, ends, checksum: digests::content(fields)? })
}

/// Returns the error for a request without the required field for completeness.
pub(super) fn completeness_missing(draft: &DraftVersion) -> BadField {
    missing(draft.completeness.field())
}

fn missing(field: &'static str) -> BadField {
    BadField::new(field, "is missing, repeated or of the wrong type")
}

/// Rejects a query that carries upload fields, if the version forbids them.
pub(super) fn check_query(draft: &DraftVersion, fields: &dyn Fields) -> Result<(), BadField> {
    let own = ["upload-offset", "upload-complete", "upload-incomplete", "upload-length"];
    match own.into_iter().find(|name| fields.has(name)) {
        Some(name) if draft.strict_queries => Err(BadField::new(name, "must not be sent with this request")),
        _ => Ok(()),
    }
}

/// Returns `Upload-Limit`: the maximum size, and the time left if the upload expires.
pub(super) fn limit(draft: &DraftVersion, max_bytes: u64, time_left: Option<Duration>) -> String {
    let mut limit = format!("max-size={max_bytes}");
    if let Some(left) = time_left {
        let seconds = left.as_secs();
        limit.push_str(&format!(", max-age={seconds}"));
        if draft.has_expires {
            limit.push_str(&format!(", expires={seconds}"));
        }
    }
    limit
}

fn is_end(draft: &DraftVersion, fields: &dyn Fields) -> Option<bool> {
    boolean(fields, draft.completeness.field()).map(|value| draft.completeness.is_end(value))
}

fn length(fields: &dyn Fields) -> Result<Option<Length>, BadField> {
    Ok(natural(fields, "upload-length").and_then(Length::new))
}

fn natural(fields: &dyn Fields, name: &str) -> Option<u64> {
    integer(fields, name).and_then(|value| u64::try_from(value).ok())
}

/// Returns the media type in lower case, without parameters. An invalid one counts as none.
fn media_type(fields: &dyn Fields) -> Option<String> {
    edge::fields::media_type(fields).ok().flatten()
}

/// Returns the file's name and types under the metadata names of other dialects. Invalid fields are ignored.
fn described(fields: &dyn Fields, max_bytes: usize) -> Result<Metadata, WireError> {
    let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, value: &str| pairs.push((name.to_owned(), value.as_bytes().to_vec()));
    if let Some(name) = file_name(fields) {
        add("filename", &name);
    }
    let text = |name| single(fields, name).ok().flatten().filter(|value| !value.is_empty());
    if let Some(kind) = text("content-type").filter(|_| !media_type(fields).as_deref().is_some_and(is_of_a_protocol)) {
        add("filetype", kind);
    }
    if let Some(encoding) = text("content-encoding") {
        add("contentEncoding", encoding);
    }
    // Not part of this protocol, but tus-js-client sends it.
    let of_tus = metadata::metadata(fields).unwrap_or_default();
    for (name, value) in of_tus.pairs() {
        if !pairs.iter().any(|(known, _)| known == name) {
            pairs.push((name.clone(), value.clone()));
        }
    }
    let size = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > max_bytes {
        return Err(WireError::TooLarge { size, limit: max_bytes });
    }
    Metadata::new(pairs).map_err(|problem| BadField::new("upload-metadata", problem.to_string()).into())
}

/// Returns the name from a single `Content-Disposition`, made safe for display: nothing that could be taken
/// for a path.
fn file_name(fields: &dyn Fields) -> Option<String> {
    let mut lines = fields.values("content-disposition");
    let name = disposition::file_name(lines.next()?)?;
    if lines.next().is_some() {
        return None;
    }
    Metadata::new(vec![("filename".to_owned(), name.into_bytes())]).ok()?.file_name()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ietf::draft::tests::{CONFIGURED, draft};
    use crate::testing::{Text, anything};
    use domain::metadata::MAX_PAIRS;

    fn newest() -> DraftVersion {
        draft("")
    }

    fn created(draft: &DraftVersion, fields: &dyn Fields, count: Option<u64>) -> Result<Option<Creation>, WireError> {
        creation(draft, fields, count, 200)
    }

    #[test]
    fn a_creation_tells_its_length_and_its_end() {
        let inconsistent =
            |content, length| Err(WireError::InconsistentLength { content, length: Length::new(length).unwrap() });
        let understood = |length: Option<u64>, ends| Ok((length, ends));
        let (said, not_yet) = (("upload-complete", "?1"), ("upload-complete", "?0"));
        for (fields, count, expected) in [
            (vec![said], Some(5), understood(Some(5), CompletesUpload::Here)),
            (vec![said], Some(0), understood(Some(0), CompletesUpload::Here)),
            (vec![said], None, understood(None, CompletesUpload::Here)),
            (vec![said, ("upload-length", "5")], Some(5), understood(Some(5), CompletesUpload::Here)),
            (vec![said, ("upload-length", "5")], None, understood(Some(5), CompletesUpload::Here)),
            (vec![said, ("upload-length", "6")], Some(5), inconsistent(5, 6)),
            (vec![said, ("upload-length", "4")], Some(5), inconsistent(5, 4)),
            (vec![not_yet], Some(5), understood(None, CompletesUpload::Later)),
            (vec![not_yet], Some(0), understood(None, CompletesUpload::Later)),
            (vec![not_yet, ("upload-length", "5")], Some(0), understood(Some(5), CompletesUpload::Later)),
            (vec![not_yet, ("upload-length", "5")], Some(5), understood(Some(5), CompletesUpload::Later)),
            (vec![not_yet, ("upload-length", "5")], Some(6), inconsistent(6, 5)),
            (vec![not_yet, ("upload-length", "-5")], Some(6), understood(None, CompletesUpload::Later)),
            (
                vec![not_yet, ("upload-length", "5"), ("upload-length", "5")],
                Some(6),
                understood(None, CompletesUpload::Later),
            ),
            (vec![not_yet, ("upload-length", "0")], Some(0), understood(Some(0), CompletesUpload::Later)),
        ] {
            let fields: Text = fields;
            let found = created(&newest(), &fields, count);
            let found = found.map(|creation| creation.unwrap()).map(|creation| (creation.length, creation.ends));
            let found = found.map(|(length, ends)| (length.map(|length| length.get()), ends));
            assert_eq!(found, expected, "ietf 23 to 31: {fields:?} {count:?}");
        }
    }

    #[test]
    fn what_says_nothing_readable_is_no_creation() {
        for value in ["1", "true", "?2", "?1, ?1", "", "?1, ?0", "(?1)"] {
            let fields: Text = vec![("upload-complete", value), ("upload-draft-interop-version", "8")];
            assert_eq!(created(&draft("8"), &fields, Some(5)), Ok(None), "ietf 20: {value:?}");
        }
        let denied: Text = vec![("upload-incomplete", "?0")];
        assert_eq!(created(&draft("8"), &denied, Some(5)), Ok(None), "2.0: the field of another version");
        let creation = created(&draft("3"), &denied, Some(5)).unwrap().unwrap();
        assert_eq!(creation.ends, CompletesUpload::Here, "2.0: in version 3 the field has the opposite sense");
    }

    #[test]
    fn an_upload_begins_at_its_beginning() {
        for (offset, fine) in
            [("0", true), ("000", true), ("5, 6", true), ("\"5\"", true), ("5", false), ("1;x", false)]
        {
            let fields: Text = vec![("upload-complete", "?0"), ("upload-offset", offset)];
            assert_eq!(created(&newest(), &fields, Some(0)).is_ok(), fine, "ietf 39: {offset:?}");
        }
    }

    #[test]
    fn a_client_of_tus_js_that_has_nothing_to_send_has_ended() {
        let fields: Text = vec![("upload-complete", "?0"), ("upload-length", "0")];
        for (number, ends) in [
            ("5", CompletesUpload::Here),
            ("6", CompletesUpload::Here),
            ("8", CompletesUpload::Later),
            ("", CompletesUpload::Later),
        ] {
            let creation = created(&draft(number), &fields, Some(0)).unwrap().unwrap();
            assert_eq!(creation.ends, ends, "dialects 3: interop {number}");
        }
        let silent: Text = vec![("content-type", PARTIAL_UPLOAD), ("upload-offset", "7"), ("upload-length", "7")];
        for (number, ends) in [("5", Some(CompletesUpload::Here)), ("6", Some(CompletesUpload::Here)), ("8", None)] {
            let found = append(&draft(number), &silent, Some(0)).ok().map(|appending| appending.ends);
            assert_eq!(found, ends, "ietf 53: interop {number}");
            assert!(append(&draft(number), &silent, Some(1)).is_err(), "only when nothing is sent");
            assert!(append(&draft(number), &silent[..2].to_vec(), Some(0)).is_err(), "only with the length");
        }
    }

    #[test]
    fn an_append_has_a_place_an_end_and_a_type() {
        let (kind, offset) = (("content-type", PARTIAL_UPLOAD), ("upload-offset", "5"));
        let said = ("upload-complete", "?1");
        for (number, fields, expected) in [
            ("8", vec![kind, offset, said], Ok((5, CompletesUpload::Here))),
            ("8", vec![kind, offset, ("upload-complete", "?0")], Ok((5, CompletesUpload::Later))),
            ("3", vec![offset, ("upload-incomplete", "?1")], Ok((5, CompletesUpload::Later))),
            ("5", vec![offset, said], Ok((5, CompletesUpload::Here))),
            ("5", vec![("content-type", "video/mp4"), offset, said], Ok((5, CompletesUpload::Here))),
            ("6", vec![offset, said], Err(WireError::MediaType)),
            ("8", vec![("content-type", "video/mp4"), offset, said], Err(WireError::MediaType)),
            (
                "",
                vec![("content-type", "Application/Partial-Upload; x=1"), offset, said],
                Ok((5, CompletesUpload::Here)),
            ),
            ("8", vec![kind, said], Err(missing("upload-offset").into())),
            ("8", vec![kind, ("upload-offset", "-5"), said], Err(missing("upload-offset").into())),
            ("8", vec![kind, ("upload-offset", "5.0"), said], Err(missing("upload-offset").into())),
            ("8", vec![kind, offset, offset, said], Err(missing("upload-offset").into())),
            ("8", vec![kind, offset], Err(missing("upload-complete").into())),
            ("8", vec![kind, offset, said, said], Err(missing("upload-complete").into())),
            ("3", vec![offset, said], Err(missing("upload-incomplete").into())),
        ] {
            let fields: Text = fields;
            let found = append(&draft(number), &fields, Some(3));
            let found = found.map(|appending| (appending.at.get(), appending.ends));
            assert_eq!(found, expected, "ietf 51 to 53 and 78: interop {number}, {fields:?}");
        }
    }

    #[test]
    fn a_question_carries_nothing_of_an_upload_where_the_version_says_so() {
        for name in ["upload-offset", "upload-complete", "upload-incomplete", "upload-length"] {
            let fields: Text = vec![(name, "nonsense")];
            for (number, rejected) in
                [("3", true), ("5", true), ("6", true), ("7", false), ("8", false), ("10", false), ("", false)]
            {
                let bad = check_query(&draft(number), &fields).is_err();
                assert_eq!(bad, rejected, "ietf 46: interop {number}, {name}");
            }
        }
        let fine: Text = vec![("upload-draft-interop-version", "6")];
        assert_eq!(check_query(&draft("6"), &fine), Ok(()));
    }

    #[test]
    fn the_limit_is_never_empty_and_names_the_time_left() {
        let day = Some(Duration::from_millis(86_400_999));
        assert_eq!(limit(&newest(), 64, None), "max-size=64");
        assert_eq!(limit(&newest(), 64, day), "max-size=64, max-age=86400", "ietf 10, 15");
        assert_eq!(limit(&draft("6"), 64, day), "max-size=64, max-age=86400, expires=86400", "ietf 18");
    }

    #[test]
    fn the_name_and_the_types_of_the_file_are_kept() {
        for (fields, expected) in [
            (
                vec![
                    ("content-disposition", "inline; filename=\"../../a film.mp4\""),
                    ("content-type", "video/mp4; codecs=x"),
                    ("content-encoding", "gzip"),
                ],
                vec![("filename", "a film.mp4"), ("filetype", "video/mp4; codecs=x"), ("contentEncoding", "gzip")],
            ),
            (vec![("content-disposition", "inline; filename*=UTF-8''%0d%0aX%2fa.mp4")], vec![("filename", "a.mp4")]),
            (vec![("content-disposition", "inline; filename=..")], vec![]),
            (vec![("content-disposition", "inline; filename=\"x"), ("content-type", "a/b")], vec![("filetype", "a/b")]),
            (vec![("content-disposition", "inline; filename=a"), ("content-disposition", "inline")], vec![]),
            (vec![("content-type", PARTIAL_UPLOAD)], vec![]),
            (vec![("content-type", "application/offset+octet-stream")], vec![]),
            (vec![("content-type", "")], vec![]),
            (
                vec![("content-type", "a/b"), ("upload-metadata", "filename eC5tcDQ=,filetype Yy9k")],
                vec![("filetype", "a/b"), ("filename", "x.mp4")],
            ),
            (vec![("upload-metadata", "no base64"), ("content-type", "a/b")], vec![("filetype", "a/b")]),
        ] {
            let mut fields: Text = fields;
            fields.push(("upload-complete", "?0"));
            let metadata = created(&newest(), &fields, Some(0)).unwrap().unwrap().metadata;
            let found: Vec<(&str, &str)> = metadata
                .pairs()
                .iter()
                .map(|(name, value)| (name.as_str(), std::str::from_utf8(value).unwrap()))
                .collect();
            assert_eq!(found, expected, "ietf 36, 37: {fields:?}");
        }
    }

    #[test]
    fn metadata_is_bounded() {
        let long: &'static str = format!("a/{}", "b".repeat(300)).leak();
        let fields: Text = vec![("upload-complete", "?0"), ("content-type", long)];
        let size = "filetype".len() + long.len();
        assert_eq!(created(&newest(), &fields, Some(0)), Err(WireError::TooLarge { size, limit: 200 }));
        let many: Vec<String> = (0..MAX_PAIRS).map(|i| format!("k{i}")).collect();
        let many: &'static str = many.join(",").leak();
        let fields: Text = vec![("upload-complete", "?0"), ("content-type", "a/b"), ("upload-metadata", many)];
        assert!(creation(&newest(), &fields, Some(0), 10_000).is_err(), "one pair too many");
    }

    const FIELDS: [&str; 12] = [
        "upload-draft-interop-version",
        "upload-complete",
        "upload-incomplete",
        "upload-offset",
        "upload-length",
        "content-type",
        "content-disposition",
        "content-encoding",
        "content-digest",
        "repr-digest",
        "want-repr-digest",
        "upload-metadata",
    ];

    const WORDS: [&[u8]; 20] = [
        b"?0",
        b"?1",
        b"0",
        b"5",
        b"8",
        b"999999999999999",
        b", ",
        b";",
        b"=",
        b":",
        b"\"",
        b"inline; filename=",
        b"*=UTF-8''",
        b"%ff",
        b"crc32c=:4waSgw==:",
        b"sha-256=:YQ==:",
        b"application/partial-upload",
        b"(",
        b"\xff",
        b"x",
    ];

    proptest! {
        #[test]
        fn no_header_bytes_confuse_the_parsers(fields in anything(&FIELDS, &WORDS, 4), count in prop::option::of(0_u64..9)) {
            let draft = DraftVersion::of(&fields, &CONFIGURED);
            if let Ok(Some(creation)) = creation(&draft, &fields, count, 100) {
                let size: usize = creation.metadata.pairs().iter().map(|(name, value)| name.len() + value.len()).sum();
                prop_assert!(size <= 100);
                if let (Some(length), Some(count)) = (creation.length, count) {
                    prop_assert!(count <= length.get());
                    prop_assert!(creation.ends != CompletesUpload::Here || count == length.get());
                }
                let name = creation.metadata.get("filename").unwrap_or_default();
                prop_assert!(fields.has("upload-metadata") || !name.contains(&b'/'));
            }
            if let Ok(appending) = append(&draft, &fields, count) {
                prop_assert!(appending.at.get() <= 999_999_999_999_999 && fields.has("upload-offset"));
            }
        }
    }
}
