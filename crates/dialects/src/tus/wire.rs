//! Parses tus 1.0 header text into commands, and back. Pure: no I/O, no HTTP crate.

use std::borrow::Cow;

use base64::Engine as _;

use crate::dialect::{Certainty, Head, Recognised, TargetKind};
use crate::digests;
use crate::digests::BadDigests;
use crate::metadata::{OFFSET_OCTET_STREAM, parse_metadata};
use crate::uploads::BASE_PATH;
use domain::checksum::{Algorithm, Digest};
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::size::{Length, Offset, parse_bytes};
use edge::body::BodySize;
use edge::fields::{BadField, Fields, LENIENT_BASE64, joined, media_type, single};

pub(crate) const VERSION: &str = "1.0.0";

/// The supported extensions. `checksum-trailer` is not supported, because the HTTP layer does not provide
/// trailers.
pub(crate) const EXTENSIONS: &str =
    "creation,creation-with-upload,creation-defer-length,expiration,checksum,termination,concatenation";

/// The supported extensions if clients may not delete uploads.
pub(crate) const EXTENSIONS_WITHOUT_TERMINATION: &str =
    "creation,creation-with-upload,creation-defer-length,expiration,checksum,concatenation";

/// The request fields of clients.
pub(crate) const REQUEST_FIELDS: [&str; 8] = [
    "X-HTTP-Method-Override",
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Checksum",
];

/// The response fields that clients read.
pub(crate) const ANSWER_FIELDS: [&str; 12] = [
    "Upload-Offset",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Defer-Length",
    "Upload-Concat",
    "Upload-Expires",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
    "Accept-Patch",
];

/// The supported checksum algorithms; sha1 is first, because every implementation supports it.
pub(crate) const CHECKSUM_ALGORITHMS: &str = "sha1,sha256,sha512,md5,crc32,crc32c";

/// The operation that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Options,
    Post,
    Head,
    Patch,
    Delete,
    Get,
}

/// The reason why a request is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error(transparent)]
    Field(#[from] BadField),
    #[error(transparent)]
    Digests(#[from] BadDigests),
    #[error("this server supports tus {VERSION}, but the request names {}", .0.as_deref().unwrap_or("no version"))]
    Version(Option<String>),
    #[error("upload data must have Content-Type: {OFFSET_OCTET_STREAM}")]
    MediaType,
    #[error("{field} has {size} bytes; the limit is {limit} (limits.max_metadata_size)")]
    TooLarge { field: &'static str, size: usize, limit: usize },
    #[error("a final upload is assembled from its parts and accepts no data")]
    FinalWithData,
    #[error("a checksum in a trailer is not supported; send Upload-Checksum as a header field")]
    ChecksumTrailer,
    #[error("{0:?} in the list is not an upload of this server")]
    ForeignPart(String),
}

/// A parsed POST to the creation URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Creation {
    pub kind: CreationKind,
    pub metadata: Metadata,
    pub metadata_as_sent: Option<String>,
    /// True if the request carries bytes of the upload.
    pub with_data: bool,
    /// The checksum of the bytes in the request. `Upload-Checksum` on a creation without bytes is ignored,
    /// because some clients send that of the whole file there.
    pub checksum: Option<Checksum>,
    pub wanted_digests: Vec<Algorithm>,
    pub promised_digests: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CreationKind {
    /// `None`: the length is declared later.
    Single(Option<Length>),
    Partial(Option<Length>),
    Final {
        parts: Vec<UploadId>,
        as_sent: String,
    },
}

/// A parsed PATCH to an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Patch {
    pub at: Offset,
    pub length: Option<Length>,
    pub checksum: Option<Checksum>,
}

/// The digest that the bytes of a request are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// `Upload-Checksum`. If it is present, `Content-Digest` is ignored.
    Own(Digest),
    /// `Content-Digest`, which belongs to no dialect.
    Content(Digest),
}

impl Checksum {
    pub(crate) fn digest(&self) -> &Digest {
        match self {
            Self::Own(digest) | Self::Content(digest) => digest,
        }
    }
}

/// Returns the effective method of a request, if tus defines it.
///
/// tus 1.0, X-HTTP-Method-Override: the named method replaces the one that was sent. Only a POST can be
/// overridden, so that a method that is harmless on its way does not become harmful here.
pub(crate) fn method(wire: &str, fields: &dyn Fields) -> Result<Option<Method>, WireError> {
    let overriding = if wire == "POST" { single(fields, "x-http-method-override")? } else { None };
    Ok(match (overriding.map(str::to_ascii_uppercase).as_deref(), wire) {
        (Some("PATCH"), _) | (None, "PATCH") => Some(Method::Patch),
        (Some("DELETE"), _) | (None, "DELETE") => Some(Method::Delete),
        (Some("HEAD"), _) | (None, "HEAD") => Some(Method::Head),
        (Some("POST"), _) | (None, "POST") => Some(Method::Post),
        (None, "OPTIONS") => Some(Method::Options),
        (None, "GET") => Some(Method::Get),
        (Some(_), _) | (None, _) => None,
    })
}

/// Rejects any version except the supported one. `wire` is the method as sent.
///
/// tus 1.0, Tus-Resumable: required on every request except OPTIONS. GET, HEAD and DELETE have the same
/// meaning for other HTTP clients, so the field may be missing there; a wrong version is rejected there, too.
pub(crate) fn check_version(wire: &str, fields: &dyn Fields) -> Result<(), WireError> {
    if wire == "OPTIONS" {
        return Ok(());
    }
    match single(fields, "tus-resumable")? {
        Some(VERSION) => Ok(()),
        None if matches!(wire, "GET" | "HEAD" | "DELETE") => Ok(()),
        other => Err(WireError::Version(other.map(str::to_owned))),
    }
}

/// Marks of creations. A request with one of them but without a version is an invalid request of this
/// dialect.
const CREATION_MARKS: [&str; 4] = ["upload-length", "upload-defer-length", "upload-concat", "upload-metadata"];

/// Recognizes requests of this dialect, which all state its version. A request without one may still be
/// intended for it, and requests that no dialect claims are answered in it.
pub(crate) fn recognise(head: &Head<'_>) -> Recognised {
    if head.fields.has("tus-resumable") {
        return Recognised { certainty: Some(Certainty::Marked), excludes_others: true };
    }
    let media_type = head.media_type();
    let is_typed = media_type.as_deref() == Some(OFFSET_OCTET_STREAM);
    let is_likely = match (head.target, head.method) {
        (_, "PATCH") => is_typed,
        // A request without a body is more likely a mistake than an empty file.
        (TargetKind::Collection, "POST") if media_type.is_none() && !head.carries_body => true,
        (TargetKind::Collection, "POST" | "PUT") => is_typed || head.has_any(&CREATION_MARKS),
        (TargetKind::Collection | TargetKind::Upload | TargetKind::Name, _) => false,
    };
    let certainty = if is_likely { Certainty::Likely } else { Certainty::Otherwise };
    Recognised { certainty: Some(certainty), excludes_others: false }
}

/// Returns the overriding method if it is DELETE. No other method changes anything that a POST may not
/// change.
pub(crate) fn effective_method(wire: &str, fields: &dyn Fields) -> Option<&'static str> {
    let deletes = wire == "POST" && matches!(method(wire, fields), Ok(Some(Method::Delete)));
    deletes.then_some("DELETE")
}

pub(crate) fn creation(fields: &dyn Fields, body: BodySize, max_metadata_bytes: usize) -> Result<Creation, WireError> {
    reject_trailer_checksum(fields)?;
    let kind = creation_kind(fields)?;
    if let CreationKind::Final { as_sent, .. } = &kind
        && as_sent.len() > max_metadata_bytes
    {
        return Err(WireError::TooLarge { field: "upload-concat", size: as_sent.len(), limit: max_metadata_bytes });
    }
    let with_data = match (media_type(fields)?.as_deref(), body.is_empty()) {
        // Some HTTP stacks always send a content type, also for an empty body; it has no meaning then.
        (_, true) => false,
        (Some(OFFSET_OCTET_STREAM), false) => true,
        (_, false) => return Err(WireError::MediaType),
    };
    if with_data && matches!(kind, CreationKind::Final { .. }) {
        return Err(WireError::FinalWithData);
    }
    let metadata_as_sent = joined(fields, "upload-metadata")?;
    if let Some(text) = &metadata_as_sent
        && text.len() > max_metadata_bytes
    {
        return Err(WireError::TooLarge { field: "upload-metadata", size: text.len(), limit: max_metadata_bytes });
    }
    Ok(Creation {
        kind,
        metadata: metadata_as_sent.as_deref().map_or(Ok(Metadata::default()), parse_metadata)?,
        metadata_as_sent,
        with_data,
        checksum: if with_data { checksum(fields)? } else { digests::content(fields)?.map(Checksum::Content) },
        wanted_digests: digests::wanted(fields),
        promised_digests: digests::promised(fields)?,
    })
}

pub(crate) fn patch(fields: &dyn Fields) -> Result<Patch, WireError> {
    reject_trailer_checksum(fields)?;
    if media_type(fields)?.as_deref() != Some(OFFSET_OCTET_STREAM) {
        return Err(WireError::MediaType);
    }
    let at = bytes(fields, "upload-offset")?.ok_or(BadField::new("upload-offset", "is missing"))?;
    Ok(Patch {
        at: Offset::new(at).ok_or(BadField::new("upload-offset", TOO_LARGE))?,
        length: length(fields)?,
        checksum: checksum(fields)?,
    })
}

const TOO_LARGE: &str = "is larger than 9223372036854775807";

fn creation_kind(fields: &dyn Fields) -> Result<CreationKind, WireError> {
    let length = length(fields)?;
    let deferred = match single(fields, "upload-defer-length")? {
        None => false,
        Some("1") => true,
        Some(_) => return Err(BadField::new("upload-defer-length", "must be 1").into()),
    };
    let concat = single(fields, "upload-concat")?;
    if let Some(list) = concat.and_then(|concat| concat.strip_prefix("final;")) {
        if length.is_some() || deferred {
            return Err(BadField::new("upload-length", "must not be sent for a final upload").into());
        }
        let as_sent = concat.unwrap_or_default().to_owned();
        return Ok(CreationKind::Final { parts: parse_parts(list)?, as_sent });
    }
    let length = match (length, deferred) {
        (Some(length), false) => Some(length),
        (None, true) => None,
        (Some(_), true) => {
            return Err(BadField::new(
                "upload-defer-length",
                "must not be sent together with Upload-Length; send one of them",
            )
            .into());
        }
        (None, false) => {
            return Err(BadField::new("upload-length", "is missing; send it, or Upload-Defer-Length: 1").into());
        }
    };
    match concat {
        None => Ok(CreationKind::Single(length)),
        Some("partial") => Ok(CreationKind::Partial(length)),
        Some(_) => Err(BadField::new("upload-concat", "must be partial or final;<url> <url>…").into()),
    }
}

/// Parses the uploads of a final upload, from the last segments of their URLs. No URL is fetched: only
/// uploads of this server are accepted.
fn parse_parts(list: &str) -> Result<Vec<UploadId>, WireError> {
    let parts: Vec<UploadId> = list
        .split(' ')
        .filter(|url| !url.is_empty())
        .map(|url| part_id(url).ok_or_else(|| WireError::ForeignPart(url.chars().take(200).collect())))
        .collect::<Result<_, _>>()?;
    if parts.is_empty() {
        return Err(BadField::new("upload-concat", "lists no uploads").into());
    }
    Ok(parts)
}

fn part_id(url: &str) -> Option<UploadId> {
    // A list with another separator must not be taken for its last upload.
    if url.contains([',', ';']) {
        return None;
    }
    let path = match url.split_once("://") {
        Some(("http" | "https", rest)) => &rest[rest.find('/')?..],
        Some(_) => return None,
        None => url,
    };
    // A proxy may serve this server below a path prefix, so only the end of the path counts.
    let (before, id) = path.trim_end_matches('/').rsplit_once('/')?;
    if before.trim_end_matches('/').ends_with(BASE_PATH) { id.parse().ok() } else { None }
}

fn length(fields: &dyn Fields) -> Result<Option<Length>, WireError> {
    let Some(bytes) = bytes(fields, "upload-length")? else { return Ok(None) };
    Ok(Some(Length::new(bytes).ok_or(BadField::new("upload-length", TOO_LARGE))?))
}

fn bytes(fields: &dyn Fields, field: &'static str) -> Result<Option<u64>, BadField> {
    let Some(text) = single(fields, field)? else { return Ok(None) };
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadField::new(field, "must be a decimal number of bytes"));
    }
    parse_bytes(text).map(Some).ok_or(BadField::new(field, TOO_LARGE))
}

fn checksum(fields: &dyn Fields) -> Result<Option<Checksum>, WireError> {
    Ok(match own_checksum(fields)? {
        Some(own) => Some(Checksum::Own(own)),
        None => digests::content(fields)?.map(Checksum::Content),
    })
}

fn own_checksum(fields: &dyn Fields) -> Result<Option<Digest>, WireError> {
    let Some(text) = single(fields, "upload-checksum")? else { return Ok(None) };
    let bad = |problem: Cow<'static, str>| BadField { field: "upload-checksum", problem };
    let (name, value) = text.split_once(' ').ok_or_else(|| bad("must be an algorithm, a space and a value".into()))?;
    let algorithm = Algorithm::by_name(name)
        .ok_or_else(|| bad(format!("must name one of the algorithms {CHECKSUM_ALGORITHMS}").into()))?;
    let value = LENIENT_BASE64.decode(value).map_err(|_| bad("has a value that is not valid base64".into()))?;
    let digest = Digest::new(algorithm, value).ok_or_else(|| {
        let (name, size) = (algorithm.name(), algorithm.digest_bytes());
        bad(format!("has a value of the wrong size: a {name} digest has {size} bytes").into())
    })?;
    Ok(Some(digest))
}

/// Rejects data whose checksum follows it, because such data must not be stored unchecked (tus 1.0,
/// Checksum).
fn reject_trailer_checksum(fields: &dyn Fields) -> Result<(), WireError> {
    let announced = joined(fields, "trailer")?.unwrap_or_default();
    let promised = announced.split(',').any(|name| name.trim().eq_ignore_ascii_case("upload-checksum"));
    if promised { Err(WireError::ChecksumTrailer) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Text, anything};
    use crate::uploads::upload_path;
    use base64::engine::general_purpose::STANDARD;
    use domain::size::MAX_BYTES;

    fn id(last: u8) -> UploadId {
        UploadId::from_bytes([1, 2, 3, 4, 5, 6, 0x70, 8, 0x80, 10, 11, 12, 13, 14, 15, last])
    }

    /// The inverse of parsing `Upload-Metadata`.
    fn print_metadata(metadata: &Metadata) -> String {
        let pairs = metadata.pairs().iter().map(|(key, value)| format!("{key} {}", STANDARD.encode(value)));
        pairs.collect::<Vec<_>>().join(",")
    }

    fn metadata_of(text: &str) -> Option<Vec<(String, Vec<u8>)>> {
        parse_metadata(text).ok().map(|metadata| metadata.pairs().to_vec())
    }

    #[test]
    fn the_method_meant_is_found() {
        let plain: Text = vec![];
        for (wire, meant) in [
            ("OPTIONS", Some(Method::Options)),
            ("POST", Some(Method::Post)),
            ("HEAD", Some(Method::Head)),
            ("PATCH", Some(Method::Patch)),
            ("DELETE", Some(Method::Delete)),
            ("GET", Some(Method::Get)),
            ("PUT", None),
            ("post", None),
            ("", None),
        ] {
            assert_eq!(method(wire, &plain), Ok(meant), "{wire:?}");
        }
        for (named, meant) in [
            ("PATCH", Some(Method::Patch)),
            ("delete", Some(Method::Delete)),
            ("Head", Some(Method::Head)),
            ("POST", Some(Method::Post)),
            ("GET", None),
            ("OPTIONS", None),
            ("PATCH,DELETE", None),
            ("", None),
        ] {
            let overriding: Text = vec![("x-http-method-override", named)];
            assert_eq!(method("POST", &overriding), Ok(meant), "tus 10, 11: POST, {named:?}");
            assert_eq!(method("HEAD", &overriding), Ok(Some(Method::Head)), "tus 11: only POST, {named:?}");
        }
    }

    #[test]
    fn only_our_version_is_spoken() {
        const METHODS: [&str; 5] = ["POST", "HEAD", "PATCH", "DELETE", "GET"];
        let one = |version| -> Text { vec![("Tus-Resumable", version)] };
        for version in ["", "1", "1.0", "1.0.1", "0.2.2", "1.0.0,1.0.0", "v1.0.0"] {
            assert_eq!(check_version("OPTIONS", &one(version)), Ok(()), "tus 3: OPTIONS, {version:?}");
            for method in METHODS {
                let rejected = Err(WireError::Version(Some(version.to_owned())));
                assert_eq!(check_version(method, &one(version)), rejected, "tus 8: {method}, {version:?}");
            }
        }
        for method in METHODS {
            assert_eq!(check_version(method, &one(" 1.0.0\t")), Ok(()), "blanks around a value are none of it");
            let is_plain = matches!(method, "HEAD" | "DELETE" | "GET");
            let missing = if is_plain { Ok(()) } else { Err(WireError::Version(None)) };
            assert_eq!(check_version(method, &Text::new()), missing, "tus 9: {method}");
        }
        let twice: Text = vec![("tus-resumable", "1.0.0"), ("tus-resumable", "0.2.2")];
        assert!(check_version("POST", &twice).is_err());
        assert_eq!(check_version("OPTIONS", &twice), Ok(()), "tus 3: with any fields");
    }

    #[test]
    fn a_creation_is_of_one_kind() {
        let length = |bytes| Length::new(bytes);
        for (fields, kind) in [
            (vec![("upload-length", "5")], Some(CreationKind::Single(length(5)))),
            (vec![("upload-length", "9223372036854775807")], Some(CreationKind::Single(length(MAX_BYTES)))),
            (vec![("upload-defer-length", "1")], Some(CreationKind::Single(None))),
            (vec![("upload-length", "5"), ("upload-concat", "partial")], Some(CreationKind::Partial(length(5)))),
            (vec![("upload-defer-length", "1"), ("upload-concat", "partial")], Some(CreationKind::Partial(None))),
            (vec![], None),
            (vec![("upload-length", "5"), ("upload-defer-length", "1")], None),
            (vec![("upload-length", "9223372036854775808")], None),
            (vec![("upload-length", "+5")], None),
            (vec![("upload-concat", "partial")], None),
            (vec![("upload-concat", "final")], None),
            (vec![("upload-concat", "final;")], None),
            (vec![("upload-length", "5"), ("upload-concat", "whole")], None),
        ] {
            let fields: Text = fields;
            let creation = creation(&fields, BodySize::Known(0), 100);
            assert_eq!(creation.ok().map(|creation| creation.kind), kind, "tus 17 to 20, 85, 89: {fields:?}");
        }
    }

    #[test]
    fn bytes_come_only_under_their_own_type() {
        let (known, nothing) = (BodySize::Known(5), BodySize::Known(0));
        for (kind, size, with_data) in [
            ("application/offset+octet-stream", known, Some(true)),
            ("APPLICATION/offset+octet-stream ; x=y", BodySize::Unknown, Some(true)),
            ("application/offset+octet-stream", nothing, Some(false)),
            ("text/plain", nothing, Some(false)),
            ("text/plain", known, None),
            ("", BodySize::Unknown, None),
        ] {
            let fields: Text = vec![("upload-length", "5"), ("content-type", kind)];
            let creation = creation(&fields, size, 100).ok();
            assert_eq!(creation.map(|creation| creation.with_data), with_data, "tus 36, 38: {kind:?}, {size:?}");
        }
    }

    #[test]
    fn an_upload_is_named_by_the_end_of_its_path() {
        let own = id(1).to_string();
        for (url, found) in [
            (format!("/files/{own}"), true),
            (format!("/files/{own}/"), true),
            (format!("http://localhost:8080/files/{own}"), true),
            (format!("https://example.com/below/files/{own}/"), true),
            (format!("/below/files/{own}"), true),
            (own.clone(), false),
            (format!("/{own}"), false),
            (format!("/xfiles/{own}"), false),
            (format!("/files/x/{own}"), false),
            (format!("/files/{own}//"), true),
            (format!("//files//{own}"), true),
            (format!("/files/{own}?x"), false),
            (format!("/files/{own}#x"), false),
            (format!("/files/{},/files/{own}", id(2)), false),
            (format!("/files/{};/files/{own}", id(2)), false),
            (format!("ftp://example.com/files/{own}"), false),
            ("http://example.com".to_owned(), false),
            ("http://".to_owned(), false),
            ("/files/".to_owned(), false),
            ("/".to_owned(), false),
        ] {
            assert_eq!(part_id(&url), found.then_some(id(1)), "tus 87: {url}");
        }
        let list = format!(" /files/{}   http://h/files/{} ", id(1), id(2));
        assert_eq!(parse_parts(&list), Ok(vec![id(1), id(2)]), "tus 86, 87: in their order");
        assert_eq!(parse_parts(&format!("{0} {0}", upload_path(id(1)))), Ok(vec![id(1); 2]), "tus 93");
        assert!(parse_parts("  ").is_err(), "tus 89");
    }

    #[test]
    fn metadata_has_a_grammar() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
        for (text, pairs) in [
            ("a YQ==", Some(vec![pair("a", "a")])),
            ("a", Some(vec![pair("a", "")])),
            ("a ", Some(vec![pair("a", "")])),
            ("a ,b Yg==", Some(vec![pair("a", ""), pair("b", "b")])),
            ("a\t,b Yg==", Some(vec![pair("a", ""), pair("b", "b")])),
            ("a YQ==, b Yg== ,\tc", Some(vec![pair("a", "a"), pair("b", "b"), pair("c", "")])),
            ("", Some(vec![])),
            (",", Some(vec![])),
            ("a,", Some(vec![pair("a", "")])),
            ("a YQ==,,b Yg==", Some(vec![pair("a", "a"), pair("b", "b")])),
            (",a YQ==, ", Some(vec![pair("a", "a")])),
            ("a,a", None),
            ("a YQ", Some(vec![pair("a", "a")])),
            ("a YWI=,b YWI", Some(vec![pair("a", "ab"), pair("b", "ab")])),
            ("a YQ===", None),
            ("a Y", None),
            ("a YQ==YQ==", None),
            ("a _-8=", None),
            ("a  YQ==", None),
            ("a\tYQ==", None),
            ("a Y Q=", None),
        ] {
            assert_eq!(metadata_of(text), pairs, "tus 25 to 29: {text:?}");
        }
    }

    #[test]
    fn a_checksum_names_an_algorithm_and_has_its_size() {
        let of = |text: &'static str| -> Result<Option<Digest>, WireError> {
            let fields: Text = vec![("upload-checksum", text)];
            own_checksum(&fields)
        };
        let crc = Digest::new(Algorithm::Crc32, vec![0xcb, 0xf4, 0x39, 0x26]);
        assert_eq!(of("crc32 y/Q5Jg=="), Ok(crc.clone()), "tus 79: big-endian");
        assert_eq!(of("crc32 y/Q5Jg"), Ok(crc.clone()), "without padding");
        assert_eq!(of("CRC32 y/Q5Jg=="), Ok(crc), "tus 73: in any letter case");
        for wrong in
            ["", "crc32", "crc32 ", "crc32 y/Q5", "crc32 y_Q5Jg==", "crc32  y/Q5Jg==", "crc y/Q5Jg==", "sha1 y/Q5Jg=="]
        {
            assert!(of(wrong).is_err(), "tus 74, 76: {wrong:?}");
        }
        let both: Text = vec![("upload-checksum", "crc32 y/Q5Jg=="), ("content-digest", "crc32c=:4waSgw==:")];
        assert!(matches!(checksum(&both), Ok(Some(Checksum::Own(_)))), "the dialect's own comes first");
        assert!(matches!(checksum(&both[1..].to_vec()), Ok(Some(Checksum::Content(_)))), "dialects 6");
        for (announced, rejected) in
            [("Upload-Checksum", true), ("X, upload-checksum", true), ("X-Upload-Checksum", false), ("", false)]
        {
            let fields: Text = vec![("trailer", announced)];
            assert_eq!(reject_trailer_checksum(&fields).is_err(), rejected, "tus 80: {announced:?}");
        }
    }

    const FIELDS: [&str; 13] = [
        "tus-resumable",
        "upload-length",
        "upload-defer-length",
        "upload-offset",
        "upload-metadata",
        "upload-concat",
        "upload-checksum",
        "content-type",
        "trailer",
        "want-repr-digest",
        "repr-digest",
        "content-digest",
        "x-http-method-override",
    ];

    /// Words of the grammar, so that generated text gets far into the parsers.
    const WORDS: [&[u8]; 24] = [
        b"1.0.0",
        b"0",
        b"1",
        b"9223372036854775807",
        b"9223372036854775808",
        b" ",
        b",",
        b";",
        b":",
        b"=",
        b"/",
        b"key",
        b"YQ==",
        b"partial",
        b"final;",
        b"/files/01020304-0506-7008-800a-0b0c0d0e0f01",
        b"http://",
        b"sha1",
        b"crc32c",
        b"y/Q5Jg==",
        b"sha-256=:",
        b"application/offset+octet-stream",
        b"\t",
        b"\xff",
    ];

    fn any_metadata() -> impl Strategy<Value = Metadata> {
        let key = "[!-+\\--~]{1,20}";
        let pairs = prop::collection::btree_map(key, prop::collection::vec(any::<u8>(), 0..50), 0..10);
        pairs.prop_map(|pairs| Metadata::new(pairs.into_iter().collect()).unwrap())
    }

    proptest! {
        #[test]
        fn printed_metadata_reads_back_the_same(metadata in any_metadata()) {
            let printed = print_metadata(&metadata);
            if metadata.pairs().is_empty() {
                prop_assert_eq!(printed, "");
            } else {
                prop_assert_eq!(parse_metadata(&printed), Ok(metadata));
            }
        }

        #[test]
        fn no_header_bytes_confuse_the_parsers(
            fields in anything(&FIELDS, &WORDS, 8),
            wire in prop_oneof![Just("POST"), Just("PATCH"), Just("OPTIONS"), Just("BREW")],
            body in prop_oneof![Just(BodySize::Unknown), any::<u64>().prop_map(BodySize::Known)],
        ) {
            // tus 20, 32: every accepted value is within bounds; everything else is an error, never a panic.
            if let Ok(Some(method)) = method(wire, &fields) {
                let ours = check_version(wire, &fields).is_ok();
                prop_assert!(!ours || method == Method::Options || fields.has("tus-resumable"));
            }
            if let Ok(creation) = creation(&fields, body, 64) {
                prop_assert!(creation.metadata_as_sent.as_ref().is_none_or(|text| text.len() <= 64));
                prop_assert!(!creation.with_data || body != BodySize::Known(0));
                if let Some(text) = &creation.metadata_as_sent {
                    prop_assert_eq!(parse_metadata(text), Ok(creation.metadata));
                }
                match creation.kind {
                    CreationKind::Single(length) | CreationKind::Partial(length) => {
                        prop_assert!(length.is_none_or(|length| length.get() <= MAX_BYTES));
                    }
                    CreationKind::Final { parts, as_sent } => {
                        prop_assert!(!parts.is_empty() && as_sent.starts_with("final;"));
                    }
                }
            }
            if let Ok(patch) = patch(&fields) {
                prop_assert!(patch.at.get() <= MAX_BYTES && fields.has("upload-offset"));
            }
        }
    }
}
