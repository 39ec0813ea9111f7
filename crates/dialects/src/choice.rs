//! Finds the dialect of a request from its head alone. Pure.
//!
//! All dialects share the same URLs. Header fields identify the dialect of a request, not its content type:
//! creations have any content type, and some fields belong to two dialects. Each dialect states its certainty
//! that a request belongs to it, and the one with the highest certainty gets the request; of several, the
//! first in the list.

use crate::dialect::{Certainty, DialectHandler, Head, TargetKind};

/// The dialect that answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialectChoice {
    /// The capabilities of the server, in all dialects.
    Options,
    /// The dialect at this index of the list.
    Dialect(usize),
    /// The request has no mark, so the dialect that created the upload answers it.
    AsCreated,
    /// The request has marks of two dialects.
    Mixed,
    /// A PATCH of no known dialect.
    UnknownPatch,
}

/// Finds the dialect of a request.
pub fn choose(dialects: &[DialectHandler], head: &Head<'_>) -> DialectChoice {
    if head.method == "OPTIONS" {
        return DialectChoice::Options;
    }
    let mut best: Option<(usize, Certainty)> = None;
    let mut excluding = 0_u32;
    for (index, dialect) in dialects.iter().enumerate() {
        let recognised = (dialect.recognise)(head);
        excluding |= u32::from(recognised.excludes_others) << index;
        if let Some(certainty) =
            recognised.certainty.filter(|certainty| best.is_none_or(|(_, known)| *certainty > known))
        {
            best = Some((index, certainty));
        }
    }
    let (index, certainty) = best.unwrap_or((0, Certainty::Otherwise));
    match certainty {
        Certainty::Marked | Certainty::Hinted if excluding & !(1 << index) != 0 => DialectChoice::Mixed,
        Certainty::Marked | Certainty::Hinted | Certainty::Likely | Certainty::Possible => {
            DialectChoice::Dialect(index)
        }
        Certainty::Otherwise if head.method == "PATCH" => DialectChoice::UnknownPatch,
        Certainty::Otherwise
            if head.target == TargetKind::Upload && matches!(head.method, "HEAD" | "GET" | "DELETE") =>
        {
            DialectChoice::AsCreated
        }
        Certainty::Otherwise => DialectChoice::Dialect(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{OFFSET_OCTET_STREAM, PARTIAL_UPLOAD};
    use crate::ranged::wire::starts_session;
    use edge::fields::Fields;

    /// The part of the server that finally answers a request.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Spoken {
        Options,
        Tus,
        Ietf,
        /// Starts a session, or writes to an upload.
        Ranged,
        /// A whole file, without a protocol.
        Plain,
        AsCreated,
        Mixed,
        UnknownPatch,
    }

    fn spoken(method: &str, target: TargetKind, query: &str, fields: &Vec<(&'static str, &'static str)>) -> Spoken {
        let sized = fields.iter().any(|(name, value)| *name == "content-length" && *value != "0");
        let carries_body = sized || fields.iter().any(|(name, _)| *name == "transfer-encoding");
        let head = Head { method, target, query, fields, carries_body };
        let dialects = crate::all();
        match choose(&dialects, &head) {
            DialectChoice::Options => Spoken::Options,
            DialectChoice::AsCreated => Spoken::AsCreated,
            DialectChoice::Mixed => Spoken::Mixed,
            DialectChoice::UnknownPatch => Spoken::UnknownPatch,
            DialectChoice::Dialect(index) => match dialects[index].records[0].name() {
                "tus" => Spoken::Tus,
                "ietf" => Spoken::Ietf,
                _ if head.target == TargetKind::Collection && !starts_session(query, fields) => Spoken::Plain,
                _ if head.target == TargetKind::Name && method == "PUT" && !fields.has("content-range") => {
                    Spoken::Plain
                }
                _ => Spoken::Ranged,
            },
        }
    }

    #[test]
    fn every_rule_and_the_order_of_rules() {
        use Spoken::*;
        use TargetKind::*;
        let tus = ("tus-resumable", "1.0.0");
        let range = ("content-range", "bytes 0-9/10");
        type Case = (&'static str, TargetKind, &'static str, Vec<(&'static str, &'static str)>, Spoken);
        let cases: Vec<Case> = vec![
            // dialects 2.0.
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
            // Invalid tus, and requests of no dialect: tus answers.
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
