//! `Upload-Metadata`, which clients of more than one dialect send, and the media types that do not describe a
//! file. Pure.

use base64::Engine as _;

use domain::metadata::Metadata;
use edge::fields::{BadField, Fields, LENIENT_BASE64, joined};

/// The media type of upload bytes in tus.
pub(crate) const OFFSET_OCTET_STREAM: &str = "application/offset+octet-stream";

/// The media type of appended bytes in the IETF protocol.
pub(crate) const PARTIAL_UPLOAD: &str = "application/partial-upload";

/// Returns whether a media type is that of bytes in transfer, which does not describe the file that they
/// belong to.
pub(crate) fn is_of_a_protocol(media_type: &str) -> bool {
    [PARTIAL_UPLOAD, OFFSET_OCTET_STREAM].contains(&media_type)
}

/// Returns the metadata of a request, if it has any and it is valid.
pub(crate) fn metadata(fields: &dyn Fields) -> Option<Metadata> {
    parse_metadata(&joined(fields, "upload-metadata").ok()??).ok()
}

/// Parses metadata. tus 1.0, Upload-Metadata: `key base64,key base64`; a value may be left out, with or
/// without the space before it. RFC 9110, 5.6.1.2: empty elements of a list are ignored.
pub(crate) fn parse_metadata(text: &str) -> Result<Metadata, BadField> {
    let bad = |problem: &'static str| BadField::new("upload-metadata", problem);
    let mut pairs = Vec::new();
    for pair in text.split(',') {
        let pair = pair.trim_matches([' ', '\t']);
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        if key.is_empty() {
            continue;
        }
        if key.contains('\t') {
            return Err(bad("has a key that contains a tab"));
        }
        let value = LENIENT_BASE64.decode(value).map_err(|_| bad("has a value that is not valid base64"))?;
        pairs.push((key.to_owned(), value));
    }
    Metadata::new(pairs).map_err(|problem| BadField::new("upload-metadata", problem.to_string()))
}
