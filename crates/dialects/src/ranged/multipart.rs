//! An incremental parser for `multipart/form-data`. Pure: bytes in, parts out.
//!
//! A file in the form passes through without being buffered or copied: the parser returns slices of its
//! input. It keeps only the head of a part, up to a limit, and bytes that could be the beginning of a
//! boundary. A form is complete only with its last boundary; the end of the body never ends a part.

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

use crate::names;

/// The largest head of a part.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The items of a form, in order: `FormPart`, its `Data` in pieces, `PartEnd`, the next `FormPart`, …, `End`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FormItem {
    Part(FormPart),
    Data(Bytes),
    PartEnd,
    /// The form is complete. Bytes after it have no meaning.
    End,
}

/// The head of a part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FormPart {
    /// The name of the form field.
    pub name: String,
    /// Present if the part is a file, even one without a name.
    pub file_name: Option<String>,
    pub content_type: Option<String>,
}

/// The reason why a form is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadForm {
    #[error("the content type of a form must have a boundary of 1 to 70 characters")]
    Boundary,
    #[error("the form is incomplete: its last boundary is missing")]
    BrokenOff,
    #[error("a boundary in the form must be followed by a line break")]
    AfterBoundary,
    #[error("the header of a part of the form is longer than {MAX_HEAD_BYTES} bytes")]
    LongHead,
    #[error("a part of the form has no valid Content-Disposition: form-data with a name")]
    Disposition,
}

/// Parses one form.
#[derive(Debug)]
pub(super) struct FormReader {
    /// The delimiter before each part and after the last.
    delimiter: Finder<'static>,
    at: FormState,
    /// Bytes that arrived and are not parsed yet.
    unread: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FormState {
    /// Before the first boundary, where any bytes are allowed.
    Preamble,
    /// Directly after a boundary.
    Boundary,
    Head,
    Data,
    End,
}

impl FormReader {
    /// Creates a parser for a body of this content type.
    pub(super) fn new(content_type: &str) -> Result<Self, BadForm> {
        let boundary = parameter(content_type, "boundary").ok_or(BadForm::Boundary)?;
        if !(1..=70).contains(&boundary.len()) {
            return Err(BadForm::Boundary);
        }
        let delimiter = format!("\r\n--{boundary}");
        // No line break precedes the first boundary, so one is inserted.
        Ok(Self {
            delimiter: Finder::new(&delimiter).into_owned(),
            at: FormState::Preamble,
            unread: Bytes::from_static(b"\r\n"),
        })
    }

    /// Adds the next bytes of the body.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.unread.is_empty() {
            self.unread = bytes;
            return;
        }
        let mut joined = BytesMut::with_capacity(self.unread.len() + bytes.len());
        joined.extend_from_slice(&self.unread);
        joined.extend_from_slice(&bytes);
        self.unread = joined.freeze();
    }

    /// Returns the next item in the bytes that arrived; `None` if more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<FormItem>, BadForm> {
        loop {
            match self.at {
                FormState::Preamble => match self.before_delimiter() {
                    (_, true) => self.at = FormState::Boundary,
                    (_, false) => return Ok(None),
                },
                FormState::Boundary => match self.after_boundary()? {
                    None => return Ok(None),
                    Some(FormState::End) => {
                        self.at = FormState::End;
                        return Ok(Some(FormItem::End));
                    }
                    Some(next) => self.at = next,
                },
                FormState::Head => {
                    let Some(part) = self.head()? else { return Ok(None) };
                    self.at = FormState::Data;
                    return Ok(Some(FormItem::Part(part)));
                }
                FormState::Data => {
                    let (data, ends) = self.before_delimiter();
                    if !data.is_empty() {
                        // A delimiter after these bytes stays in `unread`, and the next call finds it again.
                        return Ok(Some(FormItem::Data(data)));
                    }
                    if !ends {
                        return Ok(None);
                    }
                    self.at = FormState::Boundary;
                    return Ok(Some(FormItem::PartEnd));
                }
                FormState::End => {
                    self.unread = Bytes::new();
                    return Ok(None);
                }
            }
        }
    }

    /// Takes the bytes that are certainly before a delimiter. If there are none, and a complete delimiter
    /// follows, takes the delimiter.
    fn before_delimiter(&mut self) -> (Bytes, bool) {
        let delimiter = self.delimiter.needle();
        let safe = match self.delimiter.find(&self.unread) {
            Some(0) => {
                let _ = self.unread.split_to(delimiter.len());
                return (Bytes::new(), true);
            }
            Some(at) => at,
            None => self.unread.len() - beginning_at_end(&self.unread, delimiter),
        };
        let before = self.unread.split_to(safe);
        if self.at == FormState::Preamble && !before.is_empty() {
            return self.before_delimiter();
        }
        (before, false)
    }

    /// Parses the bytes after a boundary: `--` ends the form; otherwise a line break and a head follow.
    fn after_boundary(&mut self) -> Result<Option<FormState>, BadForm> {
        if self.unread.starts_with(b"--") {
            return Ok(Some(FormState::End));
        }
        // RFC 2046, 5.1.1: whitespace is allowed before the line break.
        let blanks = self.unread.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        match &self.unread[blanks..] {
            [b'\r', b'\n', ..] => {
                // The line break stays, because the search for the end of a head starts with the line break
                // before it.
                let _ = self.unread.split_to(blanks);
                Ok(Some(FormState::Head))
            }
            [] | [b'\r'] if blanks <= MAX_HEAD_BYTES => Ok(None),
            [b'-'] if blanks == 0 => Ok(None),
            _ => Err(BadForm::AfterBoundary),
        }
    }

    fn head(&mut self) -> Result<Option<FormPart>, BadForm> {
        const END: &[u8] = b"\r\n\r\n";
        let Some(end) = memchr::memmem::find(&self.unread, END) else {
            return if self.unread.len() > MAX_HEAD_BYTES { Err(BadForm::LongHead) } else { Ok(None) };
        };
        if end > MAX_HEAD_BYTES {
            return Err(BadForm::LongHead);
        }
        let head = self.unread.split_to(end + END.len());
        let head = unfolded(names::text(head[..end].to_vec()));
        let field = |wanted: &str| {
            let mut fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
            fields.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
        };
        let disposition = field("content-disposition").unwrap_or_default();
        let kind = disposition.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("form-data") {
            return Err(BadForm::Disposition);
        }
        Ok(Some(FormPart {
            name: parameter(disposition, "name").ok_or(BadForm::Disposition)?,
            file_name: file_name(disposition),
            content_type: field("content-type").map(str::to_owned),
        }))
    }
}

/// Returns how many bytes at the end of `bytes` could be the beginning of `delimiter`.
fn beginning_at_end(bytes: &[u8], delimiter: &[u8]) -> usize {
    let longest = bytes.len().min(delimiter.len() - 1);
    let tail = &bytes[bytes.len() - longest..];
    // Its first character does not occur again in it, so few positions need a check.
    let places = memchr::memchr_iter(delimiter[0], tail);
    let found = places.map(|at| &tail[at..]).find(|end| delimiter.starts_with(end));
    found.map_or(0, <[u8]>::len)
}

/// Joins the lines of a folded field (RFC 5322, 2.2.3), as mail libraries fold long names.
fn unfolded(head: String) -> String {
    if !head.contains("\r\n ") && !head.contains("\r\n\t") {
        return head;
    }
    head.replace("\r\n ", " ").replace("\r\n\t", "\t")
}

/// Returns the name of the file. RFC 7578, 4.2, forbids `filename*`, but a client that sends it intends it.
/// An invalid one still indicates that the part is a file.
fn file_name(disposition: &str) -> Option<String> {
    let extended = parameter(disposition, "filename*");
    let extended = extended.as_deref().map(str::as_bytes);
    let plain = || parameter(disposition, "filename").map(|plain| names::with_words_decoded(&plain));
    extended.and_then(names::extended).or_else(plain).or_else(|| extended.and_then(names::extended_as_sent))
}

/// Returns a parameter of a header value such as `form-data; name="a"`.
fn parameter(value: &str, wanted: &str) -> Option<String> {
    let mut rest = &value[value.find(';')? + 1..];
    loop {
        let (name, after) = rest.split_once('=')?;
        let (text, after) = match after.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(text);
        }
        rest = &after[after.find(';')? + 1..];
    }
}

/// Returns the text up to the closing quote, and the rest behind it. A backslash is an escape only before a
/// quote or another backslash, because some clients send paths with plain backslashes.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut plain = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((plain, &text[at + 1..])),
            '\\' => match characters.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => plain.push(escaped),
                None => plain.push('\\'),
            },
            other => plain.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=xyz";

    /// Returns the parts of a form, with the data of each joined.
    fn read(pieces: &[&[u8]]) -> Result<Vec<(FormPart, Vec<u8>)>, BadForm> {
        let mut reader = FormReader::new(TYPE)?;
        let mut parts: Vec<(FormPart, Vec<u8>)> = Vec::new();
        let mut open = false;
        for piece in pieces {
            reader.push(Bytes::copy_from_slice(piece));
            while let Some(found) = reader.next()? {
                match found {
                    FormItem::Part(part) => {
                        assert!(!open, "a part ends before the next begins");
                        open = true;
                        parts.push((part, Vec::new()));
                    }
                    FormItem::Data(data) => {
                        assert!(open && !data.is_empty(), "data belongs to a part");
                        parts.last_mut().unwrap().1.extend_from_slice(&data);
                    }
                    FormItem::PartEnd => open = false,
                    FormItem::End => return Ok(parts),
                }
            }
        }
        Err(BadForm::BrokenOff)
    }

    fn file(data: &[u8]) -> Vec<u8> {
        let head = b"--xyz\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.bin\"\r\n\r\n";
        [&head[..], data, b"\r\n--xyz--\r\n"].concat()
    }

    #[test]
    fn a_form_as_curl_sends_it() {
        let form = b"--xyz\r\nContent-Disposition: form-data; name=\"user\"\r\n\r\n7\r\n\
                     --xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"\xc3\x9cbung.mp4\"\r\n\
                     Content-Type: video/mp4\r\n\r\nline\r\n--xy\r\nline\r\n--xyz--\r\n";
        let parts = read(&[form]).unwrap();
        assert_eq!(parts[0].0, FormPart { name: "user".to_owned(), ..FormPart::default() });
        assert_eq!(parts[0].1, b"7");
        assert_eq!(parts[1].0.file_name.as_deref(), Some("Übung.mp4"));
        assert_eq!(parts[1].0.content_type.as_deref(), Some("video/mp4"));
        assert_eq!(parts[1].1, b"line\r\n--xy\r\nline");
    }

    #[test]
    fn a_file_name_is_read_in_every_way_of_writing_it() {
        for (parameters, expected) in [
            (&b"filename=\"\xc3\xa4.mp4\""[..], "\u{e4}.mp4"),
            (b"filename=\"\xe4.mp4\"", "\u{e4}.mp4"),
            (b"filename=\"=?utf-8?B?w6QubXA0?=\"", "\u{e4}.mp4"),
            (b"filename=\"=?utf-8?B?w6QubXA0?=\"; filename*=utf-8''%C3%A4.mp4", "\u{e4}.mp4"),
            (b"filename=plain.mp4; filename*=UTF-8''%C3%A4.mp4", "\u{e4}.mp4"),
            (b"filename*=UTF-8''%C3%A4.mp4; filename=plain.mp4", "\u{e4}.mp4"),
            (b"filename*=UTF-8''%C3%A4.mp4", "\u{e4}.mp4"),
            (b"filename*=UTF-8''%FF; filename=plain.mp4", "plain.mp4"),
            (b"filename*=UTF-8''; filename=plain.mp4", "plain.mp4"),
            (b"filename*=UTF-8''%zz.mp4; filename=plain.mp4", "plain.mp4"),
            (b"filename*=Shift_JIS''%83%65.mp4", "%83%65.mp4"),
            (b"filename=\"=?utf-8?B?w6Q=?=\r\n =?utf-8?B?LnQ=?=\"", "\u{e4}.t"),
            (b"\r\n\tfilename=plain.mp4", "plain.mp4"),
        ] {
            let form = [b"--xyz\r\nContent-Disposition: form-data; name=f; ", parameters, b"\r\n\r\n\r\n--xyz--"];
            let parts = read(&[&form.concat()]).unwrap();
            assert_eq!(parts[0].0.file_name.as_deref(), Some(expected), "{:?}", String::from_utf8_lossy(parameters));
        }
        let latin1 = b"--xyz\r\nContent-Disposition: form-data; name=\"stra\xdfe\"\r\n\r\n1\r\n--xyz--";
        assert_eq!(read(&[latin1]).unwrap()[0].0.name, "stra\u{df}e");
    }

    #[test]
    fn what_may_stand_around_parts_is_passed_over() {
        let form = b"a preamble\r\n--xy\r\n--xyz \t\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--xyz--and an epilogue";
        assert_eq!(read(&[form]).unwrap(), [(FormPart { name: "a".to_owned(), ..FormPart::default() }, Vec::new())]);
        assert_eq!(read(&[b"--xyz--"]).unwrap(), [], "a form of nothing");
    }

    #[test]
    fn a_form_that_is_none_is_refused() {
        let endless_head = [b"--xyz\r\nA: ".as_slice(), &[b'a'; 20_000]].concat();
        for (form, why) in [
            (&b""[..], BadForm::BrokenOff),
            (b"no boundary", BadForm::BrokenOff),
            (b"--xyz", BadForm::BrokenOff),
            (b"--xyz\r\n", BadForm::BrokenOff),
            (b"--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\ndata", BadForm::BrokenOff),
            (b"--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\ndata\r\n--xyz", BadForm::BrokenOff),
            (b"--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\ndata\r\n--xyz\r\n", BadForm::BrokenOff),
            (b"--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\ndata\r\n--xyz-", BadForm::BrokenOff),
            (b"--xyzz\r\n", BadForm::AfterBoundary),
            (b"--xyz -", BadForm::AfterBoundary),
            (b"--xyz\n", BadForm::AfterBoundary),
            (b"--xyz\r\n\r\ndata\r\n--xyz--", BadForm::Disposition),
            (b"--xyz\r\nContent-Type: a/b\r\n\r\ndata\r\n--xyz--", BadForm::Disposition),
            (b"--xyz\r\nContent-Disposition: form-data\r\n\r\ndata\r\n--xyz--", BadForm::Disposition),
            (b"--xyz\r\nContent-Disposition: attachment; name=a\r\n\r\n\r\n--xyz--", BadForm::Disposition),
            (b"--xyz\r\nContent-Disposition: form-data; name=\"a\r\n\r\n\r\n--xyz--", BadForm::Disposition),
            (&endless_head, BadForm::LongHead),
        ] {
            assert_eq!(read(&[form]), Err(why), "{:?}", String::from_utf8_lossy(form));
        }
        let long = format!("multipart/form-data; boundary={}", "b".repeat(71));
        for content_type in ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; x=y", &long]
        {
            assert_eq!(FormReader::new(content_type).err(), Some(BadForm::Boundary), "{content_type}");
        }
        assert!(FormReader::new("multipart/form-data; charset=utf-8; boundary=\"a b\"").is_ok());
    }

    #[test]
    fn parameters_are_read_with_and_without_quotes() {
        for (value, expected) in [
            ("form-data; name=a", Some("a")),
            ("form-data; filename=\"x; name=y\"; name=\"b\"", Some("b")),
            ("form-data;NAME=\"a\\\"b\\\\c\\d\"", Some("a\"b\\c\\d")),
            ("form-data; name=\"C:\\films\\one\"", Some("C:\\films\\one")),
            ("form-data; name=\"\"", Some("")),
            ("form-data; name", None),
            ("form-data; name=\"open", None),
            ("form-data", None),
            ("name=a", None),
        ] {
            assert_eq!(parameter(value, "name").as_deref(), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_come_through(
            // Mostly bytes that could be part of a boundary.
            data in prop::collection::vec(prop::sample::select(b"\r\n-xyz\0".to_vec()), 0..200),
            cuts in prop::collection::vec(0_usize..300, 0..40),
        ) {
            prop_assume!(memchr::memmem::find(&[b"\r\n", &data[..]].concat(), b"\r\n--xyz").is_none());
            let form = file(&data);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(form.len())).collect();
            cuts.extend([0, form.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &form[cut[0]..cut[1]]).collect();
            let parts = read(&pieces).unwrap();
            prop_assert_eq!(&parts[0].1, &data);
        }

        #[test]
        fn a_form_cut_anywhere_is_not_whole(data in prop::collection::vec(any::<u8>(), 0..50), cut in 0_usize..200) {
            prop_assume!(memchr::memmem::find(&[b"\r\n", &data[..]].concat(), b"\r\n--xyz").is_none());
            let form = file(&data);
            // The line break after the last boundary is not part of the form.
            let cut = cut.min(form.len() - 3);
            prop_assert_eq!(read(&[&form[..cut]]), Err(BadForm::BrokenOff));
        }
    }
}
