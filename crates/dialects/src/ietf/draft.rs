//! The differences between versions of the draft, as values. No other code depends on a version number.

use crate::structured::integer;
use edge::fields::Fields;
use engine::command::Overflow;

/// The behavior that the clients of one version expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DraftVersion {
    /// The interop number, if it is configured: it is echoed, and interim responses are sent.
    pub interop: Option<u32>,
    pub completeness: Completeness,
    /// True if appends have the media type `application/partial-upload`.
    pub typed_appends: bool,
    /// True if `Upload-Limit` has the remaining time also as `expires`.
    pub has_expires: bool,
    /// True if HEAD and DELETE must not carry upload fields.
    pub strict_queries: bool,
    /// True if an upload that has ended is reported as unknown (404).
    pub gone_is_missing: bool,
    /// The effect on an upload of more bytes than it can have.
    pub overflow: Overflow,
    /// True if there is a problem type for data after the end of an upload.
    pub names_completed: bool,
    /// True if a request without bytes completes an upload when its lengths show that nothing is left to
    /// send, even without the field that declares the end. tus-js-client, which uses these versions, omits
    /// that field for an empty file and, in a browser, for a stream that ends at a chunk boundary.
    pub silence_ends: bool,
}

/// The field that states whether a request has the last bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    /// `Upload-Complete`.
    CompleteField,
    /// `Upload-Incomplete`, with the opposite meaning.
    IncompleteField,
}

/// The version of clients that name none: the final RFC.
const NEWEST: i64 = 10;

impl DraftVersion {
    /// Returns the version of a request. A version that is not configured is served correctly, but not
    /// echoed.
    pub(super) fn of(fields: &dyn Fields, configured: &[u32]) -> Self {
        let number = integer(fields, "upload-draft-interop-version").filter(|number| *number > 0);
        let interop = number.and_then(|number| u32::try_from(number).ok()).filter(|number| configured.contains(number));
        let mut draft = Self { interop, ..Self::numbered(number.unwrap_or(NEWEST)) };
        let only_denied = fields.has("upload-incomplete") && !fields.has("upload-complete");
        if number.is_none() && only_denied {
            draft.completeness = Completeness::IncompleteField;
        }
        draft
    }

    fn numbered(number: i64) -> Self {
        Self {
            interop: None,
            completeness: if number <= 3 { Completeness::IncompleteField } else { Completeness::CompleteField },
            typed_appends: number >= 6,
            has_expires: number == 6,
            strict_queries: (3..=6).contains(&number),
            gone_is_missing: number <= 6,
            overflow: if number >= 8 { Overflow::Fatal } else { Overflow::Refused },
            names_completed: (6..=8).contains(&number),
            silence_ends: (5..=6).contains(&number),
        }
    }
}

impl Completeness {
    pub(super) const fn field(self) -> &'static str {
        match self {
            Self::CompleteField => "upload-complete",
            Self::IncompleteField => "upload-incomplete",
        }
    }

    /// Returns whether the upload ends with this request, according to the field's value.
    pub(super) const fn is_end(self, value: bool) -> bool {
        match self {
            Self::CompleteField => value,
            Self::IncompleteField => !value,
        }
    }

    /// Returns the field's value for an upload that ends (`end`) or does not.
    pub(super) const fn value(self, end: bool) -> &'static str {
        match (self, end) {
            (Self::CompleteField, true) | (Self::IncompleteField, false) => "?1",
            (Self::CompleteField, false) | (Self::IncompleteField, true) => "?0",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::testing::Text;

    pub(in crate::ietf) const CONFIGURED: [u32; 7] = [3, 5, 6, 7, 8, 9, 10];

    pub(in crate::ietf) fn draft(number: &'static str) -> DraftVersion {
        let fields: Text = vec![("upload-draft-interop-version", number)];
        DraftVersion::of(&fields, &CONFIGURED)
    }

    #[test]
    fn versions_differ_in_these_things() {
        // ietf 1 to 4: typed appends from 6, the opposite field up to 3, `expires` in 6, strict HEAD and
        // DELETE from 3 to 6, 404 up to 6, fatal overflow from 8, a type for completed uploads from 6 to 8.
        let table = |draft: DraftVersion| {
            let flags = [
                draft.completeness == Completeness::CompleteField,
                draft.typed_appends,
                draft.has_expires,
                draft.strict_queries,
                draft.gone_is_missing,
                draft.overflow == Overflow::Fatal,
                draft.names_completed,
                draft.silence_ends,
            ];
            flags.map(u8::from)
        };
        for (number, expected) in [
            ("3", [0, 0, 0, 1, 1, 0, 0, 0]),
            ("4", [1, 0, 0, 1, 1, 0, 0, 0]),
            ("5", [1, 0, 0, 1, 1, 0, 0, 1]),
            ("6", [1, 1, 1, 1, 1, 0, 1, 1]),
            ("7", [1, 1, 0, 0, 0, 0, 1, 0]),
            ("8", [1, 1, 0, 0, 0, 1, 1, 0]),
            ("9", [1, 1, 0, 0, 0, 1, 0, 0]),
            ("10", [1, 1, 0, 0, 0, 1, 0, 0]),
            ("99", [1, 1, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(table(draft(number)), expected, "interop {number}");
        }
        for none in ["", "-8", "0", "8.0"] {
            assert_eq!(table(draft(none)), table(draft("10")), "the finished RFC: {none:?}");
        }
    }

    #[test]
    fn only_a_configured_number_is_echoed() {
        for (number, echoed) in [
            ("3", Some(3)),
            ("10", Some(10)),
            ("8;x=1", Some(8)),
            ("4", None),
            ("99", None),
            ("\"8\"", None),
            ("8.0", None),
            ("8, 8", None),
            ("-8", None),
            ("0", None),
            ("4294967304", None),
            ("", None),
        ] {
            assert_eq!(draft(number).interop, echoed, "ietf 1 to 4: {number:?}");
        }
        let twice: Text = vec![("upload-draft-interop-version", "8"); 2];
        assert_eq!(DraftVersion::of(&twice, &CONFIGURED).interop, None);
    }

    #[test]
    fn a_client_without_a_number_may_deny_completeness() {
        let fields: Text = vec![("upload-incomplete", "?0")];
        assert_eq!(DraftVersion::of(&fields, &CONFIGURED).completeness, Completeness::IncompleteField);
        let both: Text = vec![("upload-incomplete", "?0"), ("upload-complete", "?1")];
        assert_eq!(DraftVersion::of(&both, &CONFIGURED).completeness, Completeness::CompleteField);
    }

    #[test]
    fn the_field_says_the_same_both_ways() {
        for completeness in [Completeness::CompleteField, Completeness::IncompleteField] {
            for end in [true, false] {
                assert_eq!(completeness.is_end(completeness.value(end) == "?1"), end);
            }
        }
    }
}
