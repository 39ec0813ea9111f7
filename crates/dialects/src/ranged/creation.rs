//! The JSON that starts a session, in Google's form and in that of this server. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::ranged::wire::{base64_digest, hex_digest};
use domain::checksum::{Algorithm, Digest};
use domain::metadata::{BadMetadata, Metadata};
use domain::size::Length;

/// A new upload, as its client describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Creation {
    pub metadata: Metadata,
    pub length: Option<Length>,
    /// The digests that the whole upload must have.
    pub promised_digests: Vec<Digest>,
}

/// The description of an object by Google's clients outside of the JSON.
#[derive(Debug, Clone, Default)]
pub(super) struct ObjectFields<'a> {
    /// `name` in the query.
    pub name: Option<&'a str>,
    /// The part of the path that names a bucket.
    pub bucket: Option<&'a str>,
    /// `X-Upload-Content-Type`, or `Content-Type` if no JSON is sent.
    pub content_type: Option<&'a str>,
}

/// The reason why the description of an upload is invalid.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadCreation {
    #[error("the body is not a valid JSON description of an upload: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the name in the query differs from the name in the JSON")]
    TwoNames,
    #[error("{0} is not a valid digest in {1}")]
    Digest(String, &'static str),
    #[error("{0:?} is not a supported digest; supported are crc32c, crc32, md5, sha1, sha256 and sha512")]
    UnknownDigest(String),
    #[error("the size is larger than 9223372036854775807")]
    Size,
    #[error("the metadata is invalid: {0}")]
    Metadata(#[from] BadMetadata),
    #[error("the metadata has more than {0} bytes (limits.max_metadata_size)")]
    TooLarge(usize),
}

/// The JSON of `POST /files` without a protocol.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PlainJson {
    name: Option<String>,
    content_type: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    digests: BTreeMap<String, String>,
}

/// The relevant members of the object that Google's clients describe. They send more members, which say
/// nothing about the bytes.
#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct GoogleObject {
    name: Option<String>,
    content_type: Option<String>,
    md5_hash: Option<String>,
    crc32c: Option<String>,
    metadata: Option<BTreeMap<String, Option<String>>>,
}

pub(super) fn plain(json: &[u8], max_metadata_bytes: usize) -> Result<Creation, BadCreation> {
    let PlainJson { name, content_type, size, metadata, digests } = serde_json::from_slice(json)?;
    let own = [("name", name), ("contentType", content_type)];
    let length = size.map(|size| Length::new(size).ok_or(BadCreation::Size)).transpose()?;
    let promised = digests.into_iter().map(|(name, value)| {
        let algorithm = Algorithm::by_name(&name).ok_or(BadCreation::UnknownDigest(name))?;
        hex_digest(algorithm, &value).ok_or_else(|| BadCreation::Digest(algorithm.name().to_owned(), "hexadecimal"))
    });
    Ok(Creation {
        promised_digests: promised.collect::<Result<_, _>>()?,
        metadata: bounded(own, as_bytes(metadata), max_metadata_bytes)?,
        length,
    })
}

/// Parses an object as Google's clients describe it. The JSON may be empty.
pub(super) fn object(json: &[u8], around: &ObjectFields, max_metadata_bytes: usize) -> Result<Creation, BadCreation> {
    let object = if json.is_empty() { GoogleObject::default() } else { serde_json::from_slice(json)? };
    let named = around.name.map(str::to_owned);
    if object.name.is_some() && named.is_some() && object.name != named {
        return Err(BadCreation::TwoNames);
    }
    let own = [
        ("name", object.name.or(named)),
        ("contentType", object.content_type.or(around.content_type.map(str::to_owned))),
        ("bucket", around.bucket.map(str::to_owned)),
    ];
    let hashes = [("md5Hash", Algorithm::Md5, object.md5_hash), ("crc32c", Algorithm::Crc32c, object.crc32c)];
    let promised = hashes.into_iter().filter_map(|(name, algorithm, value)| {
        let digest = base64_digest(algorithm, &value?);
        Some(digest.ok_or_else(|| BadCreation::Digest(name.to_owned(), "base64")))
    });
    let custom = object.metadata.unwrap_or_default().into_iter().filter_map(|(name, value)| Some((name, value?)));
    Ok(Creation {
        promised_digests: promised.collect::<Result<_, _>>()?,
        metadata: bounded(own, as_bytes(custom), max_metadata_bytes)?,
        length: None,
    })
}

fn as_bytes(texts: impl IntoIterator<Item = (String, String)>) -> impl Iterator<Item = (String, Vec<u8>)> {
    texts.into_iter().map(|(name, text)| (name, text.into_bytes()))
}

/// Combines the metadata that the server itself interprets with the client's own, within the size limit.
pub(super) fn bounded<'a>(
    own: impl IntoIterator<Item = (&'a str, Option<String>)>,
    custom: impl IntoIterator<Item = (String, Vec<u8>)>,
    max_bytes: usize,
) -> Result<Metadata, BadCreation> {
    let own = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into_bytes())));
    let pairs: Vec<_> = own.chain(custom).collect();
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > max_bytes { Err(BadCreation::TooLarge(max_bytes)) } else { Ok(Metadata::new(pairs)?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(creation: &Creation) -> Vec<(&str, &str)> {
        let pairs = creation.metadata.pairs().iter();
        pairs.map(|(name, value)| (name.as_str(), std::str::from_utf8(value).unwrap())).collect()
    }

    #[test]
    fn a_session_of_our_own_is_described_by_five_keys() {
        let json = br#"{"name": "a.mp4", "contentType": "video/mp4", "size": 12, "metadata": {"user": "7"},
                        "digests": {"crc32c": "00ffa90a", "SHA1": "da39a3ee5e6b4b0d3255bfef95601890afd80709"}}"#;
        let creation = plain(json, 1000).unwrap();
        assert_eq!(pairs(&creation), [("name", "a.mp4"), ("contentType", "video/mp4"), ("user", "7")]);
        assert_eq!(creation.length, Length::new(12));
        assert_eq!(creation.promised_digests.len(), 2);
        assert_eq!(plain(b"{}", 0).unwrap(), Creation::default());
        for (json, why) in [
            (&b""[..], "JSON"),
            (b"{", "JSON"),
            (b"[]", "JSON"),
            (b"\"x\"", "JSON"),
            (b"{} {}", "JSON"),
            (br#"{"name": 5}"#, "JSON"),
            (br#"{"size": -1}"#, "JSON"),
            (br#"{"size": 1.5}"#, "JSON"),
            (br#"{"size": "5"}"#, "JSON"),
            (br#"{"size": 1, "size": 2}"#, "duplicate field"),
            (br#"{"size": 9223372036854775808}"#, "9223372036854775807"),
            (br#"{"sise": 5}"#, "unknown field `sise`, expected one of `name`, `contentType`, `size`"),
            (br#"{"metadata": {"a": 5}}"#, "JSON"),
            (br#"{"name": "a", "metadata": {"name": "b"}}"#, "twice"),
            (br#"{"digests": {"sha3": "00"}}"#, "\"sha3\" is not a supported digest"),
            (br#"{"digests": {"crc32c": "AAAAAA=="}}"#, "crc32c is not a valid digest in hexadecimal"),
            (br#"{"name": "a name of more than 40 bytes, which is a lot"}"#, "limits.max_metadata_size"),
        ] {
            let text = String::from_utf8_lossy(json);
            let rejected = plain(json, 40).expect_err(&text).to_string();
            assert!(rejected.contains(why), "{text}: {rejected}");
        }
    }

    #[test]
    fn an_object_of_google_is_described_in_three_places() {
        let around = ObjectFields { name: Some("a.mp4"), bucket: Some("films"), content_type: Some("video/mp4") };
        let all = [("name", "a.mp4"), ("contentType", "video/mp4"), ("bucket", "films")];
        assert_eq!(pairs(&object(b"", &around, 100).unwrap()), all);
        assert_eq!(pairs(&object(br#"{"name": "a.mp4", "acl": [], "storageClass": "X"}"#, &around, 100).unwrap()), all);
        let json = br#"{"contentType": "text/plain", "metadata": {"a": "b", "c": null}, "crc32c": "AAAAAA==",
                        "md5Hash": "1B2M2Y8AsgTpgAmY7PhCfg=="}"#;
        let creation = object(json, &ObjectFields::default(), 100).unwrap();
        assert_eq!(pairs(&creation), [("contentType", "text/plain"), ("a", "b")]);
        assert_eq!(creation.promised_digests.len(), 2, "ranged 6");
        for (json, why) in [
            (&br#"{"name": "b.mp4"}"#[..], "differ"),
            (b"not json", "JSON"),
            (br#"{"metadata": {"a": 5}}"#, "JSON"),
            (br#"{"md5Hash": "AAAAAA=="}"#, "md5Hash is not a valid digest in base64"),
            (br#"{"crc32c": "x"}"#, "crc32c is not"),
            (br#"{"metadata": {"bucket": "b"}}"#, "twice"),
        ] {
            let rejected = object(json, &around, 100).unwrap_err().to_string();
            assert!(rejected.contains(why), "ranged 4: {rejected}");
        }
    }
}
