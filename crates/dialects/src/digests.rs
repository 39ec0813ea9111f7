//! Digest fields (RFC 9530), which have the same meaning in every dialect.
//!
//! `Content-Digest` applies to the bytes of one request, `Repr-Digest` to the whole upload, and
//! `Want-Repr-Digest` names the digests that a client requests for the whole upload. Unknown algorithms are
//! ignored. But a client that sends digests expects its bytes to be checked, so a field without any usable
//! digest is rejected instead of ignored.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sfv::{BareItem, Dictionary, ListEntry};

use crate::structured::dictionary;
use domain::checksum::{Algorithm, Digest};
use edge::fields::{BadField, Fields};

pub(crate) mod reply;

/// The digest of the bytes of one request.
pub(crate) const CONTENT_DIGEST: &str = "content-digest";
/// The digest of the whole upload.
pub(crate) const REPR_DIGEST: &str = "repr-digest";

/// The request fields of clients.
pub(crate) const REQUEST_FIELDS: [&str; 4] =
    ["Content-Digest", "Repr-Digest", "Want-Content-Digest", "Want-Repr-Digest"];

/// The response fields that clients read.
pub(crate) const ANSWER_FIELDS: [&str; 2] = ["Content-Digest", "Repr-Digest"];

/// A digest field that is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadDigests {
    #[error(transparent)]
    Unreadable(#[from] BadField),
    #[error("{field} has only digests of unsupported algorithms; supported are {}", KNOWN.join(", "))]
    Unsupported { field: &'static str, algorithms: Vec<String> },
    #[error("{field}: the value for {} is not a digest of {} bytes", token(*algorithm), algorithm.digest_bytes())]
    Invalid { field: &'static str, algorithm: Algorithm },
}

/// Returns the digest of this request's bytes. Of several, the strongest is used.
pub(crate) fn content(fields: &dyn Fields) -> Result<Option<Digest>, BadDigests> {
    Ok(read(fields, CONTENT_DIGEST)?.into_iter().max_by_key(Digest::algorithm))
}

/// Returns the digests that the whole upload must have.
pub(crate) fn promised(fields: &dyn Fields) -> Result<Vec<Digest>, BadDigests> {
    read(fields, REPR_DIGEST)
}

/// Returns the known algorithms with a weight above zero. An invalid preference counts as none.
pub(crate) fn wanted(fields: &dyn Fields) -> Vec<Algorithm> {
    let members = dictionary(fields, "want-repr-digest").ok().flatten().unwrap_or_default();
    let weighed = members.iter().filter(|(_, entry)| match entry {
        ListEntry::Item(item) => matches!(item.bare_item, BareItem::Integer(weight) if i64::from(weight) > 0),
        ListEntry::InnerList(_) => false,
    });
    weighed.filter_map(|(name, _)| by_token(name.as_str())).collect()
}

/// Returns these digests as a field value, without those whose algorithm has no registered name.
pub(crate) fn print<'a>(digests: impl Iterator<Item = &'a Digest>) -> Option<String> {
    let named = digests.filter(|digest| by_token(token(digest.algorithm())).is_some());
    let members: Vec<String> =
        named.map(|digest| format!("{}={}", token(digest.algorithm()), byte_sequence(digest.value()))).collect();
    (!members.is_empty()).then(|| members.join(", "))
}

/// Serializes a byte sequence (RFC 9651, 4.1.8).
fn byte_sequence(value: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(value))
}

fn read(fields: &dyn Fields, field: &'static str) -> Result<Vec<Digest>, BadDigests> {
    let members =
        dictionary(fields, field).map_err(|_| BadField::new(field, "must be a list of ALGORITHM=:BASE64:"))?;
    let members = members.unwrap_or_default();
    let mut digests = Vec::new();
    for (name, entry) in &members {
        if let Some(algorithm) = by_token(name.as_str()) {
            digests.push(digest(algorithm, entry).ok_or(BadDigests::Invalid { field, algorithm })?);
        }
    }
    if digests.is_empty() && !members.is_empty() {
        return Err(BadDigests::Unsupported { field, algorithms: names(&members) });
    }
    Ok(digests)
}

fn digest(algorithm: Algorithm, entry: &ListEntry) -> Option<Digest> {
    let ListEntry::Item(item) = entry else { return None };
    let BareItem::ByteSequence(value) = &item.bare_item else { return None };
    Digest::new(algorithm, value.clone())
}

fn names(members: &Dictionary) -> Vec<String> {
    // The head of a request is limited, and so is a response that lists parts of it.
    members.keys().take(16).map(|name| name.as_str().to_owned()).collect()
}

/// The names of the supported algorithms, strongest first.
const KNOWN: [&str; 5] = ["sha-512", "sha-256", "sha", "md5", "crc32c"];

/// Returns the name in the registry of RFC 9530, which has none for CRC-32. tus uses other names.
fn token(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Sha512 => "sha-512",
        Algorithm::Sha256 => "sha-256",
        Algorithm::Sha1 => "sha",
        Algorithm::Md5 => "md5",
        Algorithm::Crc32c => "crc32c",
        Algorithm::Crc32 => "crc32",
    }
}

fn by_token(name: &str) -> Option<Algorithm> {
    KNOWN.contains(&name).then(|| Algorithm::ALL.into_iter().find(|algorithm| token(*algorithm) == name)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Text;

    fn crc() -> Digest {
        Digest::new(Algorithm::Crc32c, vec![0xe3, 0x06, 0x92, 0x83]).unwrap()
    }

    #[test]
    fn what_is_wanted_is_weighed() {
        for (list, expected) in [
            ("sha-256=1, md5=0,unixsum=3, crc32c=10", vec![Algorithm::Sha256, Algorithm::Crc32c]),
            ("sha-256=5, sha-512=3", vec![Algorithm::Sha256, Algorithm::Sha512]),
            ("sha-256=0, sha-256=1", vec![Algorithm::Sha256]),
            ("sha-256=1.5, md5, sha=(1)", vec![]),
            ("SHA-256=1", vec![]),
            ("nonsense", vec![]),
            ("crc32=1", vec![]),
            ("", vec![]),
        ] {
            let fields: Text = vec![("want-repr-digest", list)];
            assert_eq!(wanted(&fields), expected, "ietf 74: {list:?}");
        }
    }

    #[test]
    fn digests_are_read_and_unknown_ones_passed_over() {
        let unknown = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (list, expected) in [
            ("crc32c=:4waSgw==:, id-x=:YQ==:", Ok(vec![crc()])),
            ("crc32c=:AAAAAA==:, crc32c=:4waSgw==:", Ok(vec![crc()])),
            ("crc32c=:4waSgw==:;note=1", Ok(vec![crc()])),
            ("adler=:YQ==:, md5=:YQ==:", Err(BadDigests::Invalid { field: REPR_DIGEST, algorithm: Algorithm::Md5 })),
            ("crc32c=5", Err(BadDigests::Invalid { field: REPR_DIGEST, algorithm: Algorithm::Crc32c })),
            ("crc32c", Err(BadDigests::Invalid { field: REPR_DIGEST, algorithm: Algorithm::Crc32c })),
            (
                "adler=:YQ==:, unixsum=:YQ==:",
                Err(BadDigests::Unsupported { field: REPR_DIGEST, algorithms: unknown(&["adler", "unixsum"]) }),
            ),
            ("crc32=:4waSgw==:", Err(BadDigests::Unsupported { field: REPR_DIGEST, algorithms: unknown(&["crc32"]) })),
            ("", Ok(vec![])),
        ] {
            let fields: Text = vec![("repr-digest", list)];
            assert_eq!(promised(&fields), expected, "ietf 75: {list:?}");
        }
        for unreadable in ["crc32c=4waSgw==", "crc32c=:4waSgw==", "=", ",", "crc32c=:4waSgw==:,", "Crc32c=:4waSgw==:"] {
            let fields: Text = vec![("content-digest", unreadable)];
            assert!(matches!(content(&fields), Err(BadDigests::Unreadable(_))), "{unreadable:?}");
        }
    }

    #[test]
    fn the_strongest_of_several_counts() {
        let sha256 = ["sha-256=:", &STANDARD.encode([7; 32]), ":"].concat();
        let list: &'static str = format!("{sha256}, crc32c=:4waSgw==:").leak();
        let fields: Text = vec![("content-digest", list)];
        assert_eq!(content(&fields).unwrap().unwrap().algorithm(), Algorithm::Sha256);
        let lines: Text =
            vec![("content-digest", "crc32c=:4waSgw==:"), ("content-digest", "md5=:AAAAAAAAAAAAAAAAAAAAAA==:")];
        assert_eq!(content(&lines).unwrap().unwrap().algorithm(), Algorithm::Md5, "all lines are one field");
    }

    #[test]
    fn printed_digests_read_back() {
        let crc32 = Digest::new(Algorithm::Crc32, vec![0; 4]).unwrap();
        let printed = print([&crc(), &crc32].into_iter()).unwrap();
        assert_eq!(printed, "crc32c=:4waSgw==:", "the registry has no name for the other");
        assert_eq!(print([&crc32].into_iter()), None);
    }
}
