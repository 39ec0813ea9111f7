//! Which dialect a request is said in, from its head alone. Pure.
//!
//! All dialects share the same URLs. What marks a request is its header fields, not its content type: creations carry
//! any type, and `Upload-Offset` and `Upload-Length` belong to two dialects. A request without a mark is never taken
//! for tus, whose clients mark all of theirs.

use crate::dialects::tus::wire::OFFSET_OCTET_STREAM;
use crate::edge::fields::Fields;
use domain::media_type;

/// The media type of appends in the IETF dialect.
pub const PARTIAL_UPLOAD: &str = "application/partial-upload";

/// Every media type that PATCH takes.
pub const ACCEPT_PATCH: &str = "application/partial-upload, application/offset+octet-stream";

/// What a request is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Where uploads are created.
    Collection,
    /// One upload.
    Upload,
    /// A name below the collection that is not the id of an upload, as `curl -T` makes them.
    Name,
}

/// Who is to understand a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// What this server can do, in all dialects at once.
    Options,
    Tus,
    Ietf,
    /// Ranged PUT: a session is started, or an upload is written.
    Ranged,
    /// A whole file, without a protocol.
    Plain,
    /// Nothing says; the upload does, by how it was created.
    AsCreated,
    /// The marks of two dialects.
    Mixed,
    /// A PATCH that no dialect knows.
    UnknownPatch,
}

/// Marks of tus creations. With one of them but without a version, a request is a broken tus request and not a plain one.
const TUS_CREATION: [&str; 4] = ["upload-length", "upload-defer-length", "upload-concat", "upload-metadata"];

const IETF_MARKS: [&str; 3] = ["upload-complete", "upload-incomplete", "upload-draft-interop-version"];

/// Marks of Google's sessions, and of another of its protocols, which is refused where these are understood.
const SESSION_MARKS: [&str; 5] = [
    "x-upload-content-type",
    "x-upload-content-length",
    "x-goog-resumable",
    "x-goog-upload-protocol",
    "x-goog-upload-command",
];

/// Finds the dialect of a request. The first rule that matches wins.
pub fn spoken(method: &str, target: Target, query: &str, fields: &dyn Fields) -> Spoken {
    let any = |names: &[&str]| names.iter().any(|name| fields.has(name));
    let ranged = fields.has("content-range");
    let media_type = media_type(fields);
    if method == "OPTIONS" {
        return Spoken::Options;
    }
    if fields.has("tus-resumable") {
        let other = ranged || fields.has("upload-complete") || fields.has("upload-incomplete");
        return if other { Spoken::Mixed } else { Spoken::Tus };
    }
    if any(&IETF_MARKS) || (method == "PATCH" && media_type.as_deref() == Some(PARTIAL_UPLOAD)) {
        return if ranged { Spoken::Mixed } else { Spoken::Ietf };
    }
    let session = any(&SESSION_MARKS) || query.split('&').any(|pair| pair == "uploadType=resumable");
    let tus = media_type.as_deref() == Some(OFFSET_OCTET_STREAM);
    match (target, method) {
        (Target::Collection, "POST" | "PUT") if session => Spoken::Ranged,
        (Target::Upload, "PUT") => Spoken::Ranged,
        (Target::Name, "PUT") if ranged => Spoken::Ranged,
        (Target::Upload | Target::Name, "POST") if ranged || session => Spoken::Ranged,
        (_, "PATCH") if tus => Spoken::Tus,
        (_, "PATCH") => Spoken::UnknownPatch,
        (Target::Upload, "HEAD" | "GET" | "DELETE") => Spoken::AsCreated,
        // Nothing at all is more likely a mistake than an empty file.
        (Target::Collection, "POST") if media_type.is_none() && !carries_body(fields) => Spoken::Tus,
        (Target::Collection, "POST" | "PUT") if !tus && !any(&TUS_CREATION) => Spoken::Plain,
        (Target::Name, "PUT") => Spoken::Plain,
        (Target::Collection | Target::Upload | Target::Name, _) => Spoken::Tus,
    }
}

/// Returns whether a request carries the mark of tus or of the IETF's protocol. One without could be of any HTTP client.
pub fn is_marked(fields: &dyn Fields) -> bool {
    fields.has("tus-resumable") || IETF_MARKS.iter().any(|name| fields.has(name))
}

fn carries_body(fields: &dyn Fields) -> bool {
    let sized = fields.values("content-length").any(|length| length != b"0");
    sized || fields.has("transfer-encoding")
}

fn media_type(fields: &dyn Fields) -> Option<String> {
    let value = fields.values("content-type").next().and_then(|value| std::str::from_utf8(value).ok())?;
    Some(media_type::essence(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_and_the_order_of_rules() {
        use Spoken::*;
        use Target::*;
        let tus = ("tus-resumable", "1.0.0");
        let range = ("content-range", "bytes 0-9/10");
        type Case = (&'static str, Target, &'static str, Vec<(&'static str, &'static str)>, Spoken);
        let cases: Vec<Case> = vec![
            // protocols.md 5.2, rule 0.
            ("OPTIONS", Collection, "", vec![tus], Options),
            ("OPTIONS", Upload, "", vec![("upload-complete", "?1"), range], Options),
            // Rule 1.
            ("POST", Collection, "", vec![tus], Tus),
            ("PATCH", Upload, "", vec![tus], Tus),
            ("POST", Collection, "uploadType=resumable", vec![tus, ("upload-draft-interop-version", "6")], Tus),
            ("POST", Collection, "", vec![tus, ("upload-complete", "?1")], Mixed),
            ("POST", Collection, "", vec![tus, ("upload-incomplete", "?0")], Mixed),
            ("PATCH", Upload, "", vec![tus, range], Mixed),
            // Rule 2.
            ("POST", Collection, "", vec![("upload-complete", "?0")], Ietf),
            ("PUT", Collection, "", vec![("upload-incomplete", "?1")], Ietf),
            ("PATCH", Collection, "", vec![("upload-complete", "?1")], Ietf),
            ("PUT", Upload, "", vec![("upload-complete", "?1")], Ietf),
            ("HEAD", Upload, "", vec![("upload-draft-interop-version", "8")], Ietf),
            ("PATCH", Upload, "", vec![("content-type", "Application/Partial-Upload; x=1")], Ietf),
            ("PUT", Upload, "", vec![("upload-complete", "?1"), range], Mixed),
            ("PATCH", Upload, "", vec![("content-type", PARTIAL_UPLOAD), range], Mixed),
            // Rule 3.
            ("POST", Collection, "name=a&uploadType=resumable", vec![], Ranged),
            ("POST", Collection, "", vec![("x-upload-content-length", "5")], Ranged),
            ("PUT", Collection, "", vec![("x-upload-content-type", "video/mp4")], Ranged),
            ("POST", Collection, "", vec![("x-goog-resumable", "start")], Ranged),
            ("PUT", Upload, "", vec![range], Ranged),
            ("PUT", Upload, "", vec![], Ranged),
            ("POST", Upload, "", vec![range], Ranged),
            ("POST", Collection, "", vec![("x-goog-upload-protocol", "resumable")], Ranged),
            ("POST", Upload, "", vec![("x-goog-upload-command", "upload, finalize")], Ranged),
            ("PUT", Name, "", vec![range], Ranged),
            ("POST", Name, "", vec![range], Ranged),
            // Rules 4 and 5.
            ("PATCH", Upload, "", vec![("content-type", OFFSET_OCTET_STREAM)], Tus),
            ("PATCH", Upload, "", vec![("content-type", "text/plain")], UnknownPatch),
            ("PATCH", Upload, "", vec![], UnknownPatch),
            // Rule 6.
            ("HEAD", Upload, "", vec![], AsCreated),
            ("GET", Upload, "", vec![("upload-offset", "5")], AsCreated),
            ("DELETE", Upload, "", vec![], AsCreated),
            // Rule 7.
            ("POST", Collection, "", vec![("content-type", "video/mp4")], Plain),
            ("POST", Collection, "uploadType=resumables", vec![("content-length", "9")], Plain),
            ("POST", Collection, "", vec![("transfer-encoding", "chunked")], Plain),
            ("PUT", Collection, "", vec![], Plain),
            ("PUT", Name, "", vec![("content-type", "video/mp4")], Plain),
            // Broken tus, and what nobody speaks: tus answers.
            ("POST", Collection, "", vec![("content-length", "0")], Tus),
            ("POST", Collection, "", vec![("upload-length", "5")], Tus),
            ("POST", Collection, "", vec![("upload-metadata", "")], Tus),
            ("POST", Collection, "", vec![("content-type", OFFSET_OCTET_STREAM)], Tus),
            ("POST", Upload, "", vec![("x-http-method-override", "PATCH")], Tus),
            ("GET", Collection, "", vec![], Tus),
            ("DELETE", Name, "", vec![], Tus),
        ];
        for (method, target, query, fields, expected) in cases {
            assert_eq!(spoken(method, target, query, &fields), expected, "{method} {target:?} {query} {fields:?}");
        }
    }
}
