//! The XML of the requests about multipart uploads.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::failure::Failure;
use crate::parts::Part;
use crate::probe::UnfinishedRule;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Created {
    pub(super) upload_id: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Copied {
    #[serde(rename = "ETag")]
    pub(super) etag: String,
}

/// One page of the parts of a multipart upload.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PartsPage {
    pub(super) is_truncated: bool,
    pub(super) next_part_number_marker: Option<String>,
    #[serde(rename = "Part")]
    pub(super) parts: Vec<ListedPart>,
}

/// A part as the store lists it. Never the source of an offset (scale-out O1).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListedPart {
    pub(crate) size: u64,
}

/// One page of the unfinished multipart uploads of a bucket.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct UploadsPage {
    pub(super) is_truncated: bool,
    pub(super) next_key_marker: Option<String>,
    pub(super) next_upload_id_marker: Option<String>,
    #[serde(rename = "Upload")]
    pub(super) uploads: Vec<ListedUpload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedUpload {
    pub(super) key: String,
    pub(super) upload_id: String,
}

#[derive(Debug, Default, Deserialize)]
struct Lifecycle {
    #[serde(rename = "Rule", default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Rule {
    #[serde(default)]
    status: String,
    abort_incomplete_multipart_upload: Option<AbortRule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AbortRule {
    days_after_initiation: u32,
}

/// Returns the shortest time after which rules of the bucket abort unfinished multipart uploads.
pub(super) fn unfinished_rule(body: &[u8]) -> UnfinishedRule {
    let text = String::from_utf8_lossy(body);
    let Ok(Lifecycle { rules }) = quick_xml::de::from_str(text.trim_start()) else { return UnfinishedRule::Unknown };
    let active = rules.into_iter().filter(|rule| rule.status == "Enabled");
    let days = active.filter_map(|rule| rule.abort_incomplete_multipart_upload).map(|rule| rule.days_after_initiation);
    days.min().map_or(UnfinishedRule::None, UnfinishedRule::AbortsAfterDays)
}

/// Parses the body of a successful response.
pub(super) fn parse<T: for<'de> Deserialize<'de>>(status: u16, body: &[u8]) -> Result<T, Failure> {
    let text = String::from_utf8_lossy(body);
    quick_xml::de::from_str(text.trim_start()).map_err(|_| Failure::of_body(status, body))
}

/// Reports whether the body of a response with status 200 is an error, or incomplete. Stores send white space
/// while a completion takes long, and its outcome afterwards (scale-out O10).
pub(super) fn is_failure(body: &[u8], root: &str) -> bool {
    let text = String::from_utf8_lossy(body);
    !text.contains(&format!("<{root}")) || !text.contains(&format!("</{root}>"))
}

/// Writes the list of parts that make the object. Their numbers are explicit (scale-out O10).
pub(super) fn completion(parts: &[Part]) -> String {
    let mut xml = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (part, number) in parts.iter().zip(1..) {
        let _ = write!(xml, "<Part><PartNumber>{number}</PartNumber><ETag>&quot;{}&quot;</ETag>", escaped(&part.etag));
        if let Some(crc32c) = part.crc32c {
            let _ = write!(xml, "<ChecksumCRC32C>{}</ChecksumCRC32C>", crc32c_text(crc32c));
        }
        xml.push_str("</Part>");
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml
}

/// Returns a CRC-32C as the header and the XML of S3 have it.
pub(super) fn crc32c_text(crc32c: u32) -> String {
    STANDARD.encode(crc32c.to_be_bytes())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;

    const COMPLETED: &str = "<?xml version=\"1.0\"?>\n<CompleteMultipartUploadResult><ETag>\"x-2\"</ETag>\
                             </CompleteMultipartUploadResult>";

    #[test]
    fn answers_are_read() {
        let page = "<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>2</NextPartNumberMarker>\
                    <Part><PartNumber>1</PartNumber><ETag>\"a\"</ETag><Size>5</Size></Part>\
                    <Part><PartNumber>2</PartNumber><ETag>\"b\"</ETag><Size>7</Size></Part></ListPartsResult>";
        let page: PartsPage = parse(200, page.as_bytes()).unwrap();
        assert_eq!(page.parts.iter().map(|part| part.size).collect::<Vec<_>>(), [5, 7]);
        assert!(page.is_truncated && page.next_part_number_marker.as_deref() == Some("2"));
        let none: PartsPage = parse(200, b"<ListPartsResult></ListPartsResult>").unwrap();
        assert!(none.parts.is_empty() && !none.is_truncated);
        let error = Failure::of_body(404, b"<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>");
        assert_eq!(error.kind, FailureKind::NoSuchUpload);
    }

    #[test]
    fn the_shortest_active_rule_counts() {
        let rule = |status: &str, days: u32| {
            format!(
                "<Rule><ID>a</ID><Status>{status}</Status><AbortIncompleteMultipartUpload><DaysAfterInitiation>{days}\
                 </DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>"
            )
        };
        let read = |rules: &str| {
            unfinished_rule(format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>").as_bytes())
        };
        let other = "<Rule><Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule>";
        assert_eq!(read(""), UnfinishedRule::None);
        assert_eq!(read(&format!("{other}{}", rule("Disabled", 1))), UnfinishedRule::None);
        assert_eq!(read(&[rule("Enabled", 9), rule("Enabled", 7)].concat()), UnfinishedRule::AbortsAfterDays(7));
        assert_eq!(unfinished_rule(b"<html>"), UnfinishedRule::Unknown);
    }

    /// scale-out O10: errors after white space, cut off and unknown bodies are failures that may be none.
    #[test]
    fn a_success_is_one_only_with_its_whole_body() {
        let root = "CompleteMultipartUploadResult";
        assert!(!is_failure(COMPLETED.as_bytes(), root));
        assert!(!is_failure(format!("  \n {COMPLETED}").as_bytes(), root));
        for cut in ["", "   ", &COMPLETED[..COMPLETED.len() - 1], "<html>ok</html>"] {
            assert!(is_failure(cut.as_bytes(), root), "{cut}");
        }
        let late = b"\n\n  <?xml version=\"1.0\"?><Error><Code>InternalError</Code></Error>";
        assert!(is_failure(late, root));
        assert_eq!(Failure::of_body(200, late).kind, FailureKind::Transient);
        for unreadable in ["<Error><Code>Slow", "", "{}"] {
            assert_eq!(Failure::of_body(200, unreadable.as_bytes()).kind, FailureKind::Transient, "{unreadable}");
        }
    }

    #[test]
    fn a_completion_names_each_part() {
        let part = |etag: &str, crc32c| Part { length_bytes: 9, etag: etag.into(), crc32c };
        let xml = completion(&[part("a", None), part("b<", Some(1))]);
        assert!(xml.contains("<Part><PartNumber>1</PartNumber><ETag>&quot;a&quot;</ETag></Part>"), "{xml}");
        let second =
            "<PartNumber>2</PartNumber><ETag>&quot;b&lt;&quot;</ETag><ChecksumCRC32C>AAAAAQ==</ChecksumCRC32C>";
        assert!(xml.contains(second), "{xml}");
    }
}
