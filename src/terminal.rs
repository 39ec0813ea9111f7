//! Escapes untrusted text for terminals.
//!
//! Names, metadata, addresses and responses of receivers come from strangers, and a terminal obeys control
//! sequences: it moves its cursor, changes its title, or displays letters out of order. Everything that the
//! program prints passes through here: responses shown by the command line, its errors, and the log. Escaped
//! text stays readable, in a form that is also valid in JSON, so that JSON stays the same document.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;

/// The width of a progress bar in columns, without its text.
const BAR_COLUMNS: u64 = 30;

/// A line that shows the progress of a task with several parts. Without a terminal, it is one line for each
/// part.
#[derive(Debug)]
pub(crate) struct ProgressBar<W: Write> {
    out: W,
    is_terminal: bool,
    part: String,
    was_shown: bool,
}

impl<W: Write> ProgressBar<W> {
    pub(crate) fn new(out: W, is_terminal: bool) -> Self {
        Self { out, is_terminal, part: String::new(), was_shown: false }
    }

    /// Shows how much of a part is done.
    pub(crate) fn show(&mut self, part: &str, done: u64, total: u64) {
        let is_new = self.part != part;
        if is_new {
            self.finish();
            part.clone_into(&mut self.part);
        }
        // Progress that cannot be shown does not stop the task.
        let _ = if self.is_terminal {
            let filled = done.min(total).saturating_mul(BAR_COLUMNS).checked_div(total).unwrap_or(BAR_COLUMNS);
            let bar: String = (0..BAR_COLUMNS).map(|column| if column < filled { '#' } else { '.' }).collect();
            write!(self.out, "\r[{bar}] {part} {done}/{total}")
        } else if is_new {
            write!(self.out, "{part} ({total})")
        } else {
            Ok(())
        };
        let _ = self.out.flush();
        self.was_shown = true;
    }

    /// Ends the line of the current part.
    pub(crate) fn finish(&mut self) {
        if std::mem::take(&mut self.was_shown) {
            let _ = writeln!(self.out);
        }
    }
}

/// Escapes control and invisible characters in a single value, including line breaks.
pub fn escaped(text: &str) -> Cow<'_, str> {
    escape(text, |found| found.is_control() || misleads(found))
}

/// Escapes control and invisible characters in a text, except line breaks and tabs, for texts whose lines
/// come from this program.
pub(crate) fn escaped_lines(text: &str) -> Cow<'_, str> {
    escape(text, |found| (found.is_control() && !matches!(found, '\n' | '\t')) || misleads(found))
}

/// Reports whether a character is invisible, or changes where other characters are displayed.
const fn misleads(found: char) -> bool {
    matches!(
        found,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

fn escape(text: &str, is_unfit: impl Fn(char) -> bool) -> Cow<'_, str> {
    let Some(first) = text.find(&is_unfit) else { return Cow::Borrowed(text) };
    let mut escaped = String::with_capacity(text.len() + 16);
    escaped.push_str(&text[..first]);
    for found in text[first..].chars() {
        if is_unfit(found) {
            for unit in found.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(found);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Line and paragraph separators; marks, embeddings, overrides and isolates of direction; and zero-width
    /// characters.
    const HOSTILE: &str = "\u{2028}\u{2029}\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{ad}\u{e0041}";

    fn is_fit(found: char) -> bool {
        !found.is_control() && !HOSTILE.contains(found)
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        for (text, expected) in [
            ("a\u{1b}]0;title\u{7}b", "a\\u001b]0;title\\u0007b"),
            ("a\u{9b}2J", "a\\u009b2J"),
            ("a\r\n\tb\u{7f}", "a\\u000d\\u000a\\u0009b\\u007f"),
            ("gpj.\u{202e}exe\u{2066}x\u{2069}", "gpj.\\u202eexe\\u2066x\\u2069"),
            ("a\u{2028}b\u{2029}c\u{85}", "a\\u2028b\\u2029c\\u0085"),
            ("pay\u{200b}pal\u{feff}", "pay\\u200bpal\\ufeff"),
            ("x\u{e0041}", "x\\udb40\\udc41"),
        ] {
            assert_eq!(escaped(text), expected);
        }
        for harmless in ["", "plain", "Grüße – 日本語 🎬 é", "back\\slash \"quote\"", "שלום مرحبا"] {
            assert!(matches!(escaped(harmless), Cow::Borrowed(same) if same == harmless), "{harmless}");
        }
        assert_eq!(escaped_lines("one\n\ttwo\r\u{1b}"), "one\n\ttwo\\u000d\\u001b");
    }

    #[test]
    fn progress_is_one_line_for_each_part() {
        let shown = |is_terminal| {
            let mut out = Vec::new();
            let mut bar = ProgressBar::new(&mut out, is_terminal);
            for (part, done, total) in [("uploads", 0, 4), ("uploads", 2, 4), ("events", 0, 0)] {
                bar.show(part, done, total);
            }
            bar.finish();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(false), "uploads (4)\nevents (0)\n");
        let (none, half, full) = (".".repeat(30), "#".repeat(15) + &".".repeat(15), "#".repeat(30));
        let expected = format!("\r[{none}] uploads 0/4\r[{half}] uploads 2/4\n\r[{full}] events 0/0\n");
        assert_eq!(shown(true), expected);
    }

    proptest! {
        #[test]
        fn nothing_printed_is_obeyed(text in any::<String>(), hostile in "[\\x00-\\x1f\\x7f-\\u{9f}\\u{2000}-\\u{206f}a]{0,20}") {
            let text = text + &hostile;
            prop_assert!(escaped(&text).chars().all(is_fit));
            prop_assert!(escaped_lines(&text).chars().all(|found| is_fit(found) || matches!(found, '\n' | '\t')));
            let once = escaped(&text);
            prop_assert_eq!(escaped(&once), once.as_ref());
        }

        #[test]
        fn json_stays_the_same_document(name in any::<String>(), text in any::<String>(), hostile in "[\\x7f-\\u{9f}\\u{2000}-\\u{206f}]{0,9}") {
            let document = json!({ name: [text, hostile] });
            for printed in [document.to_string(), format!("{document:#}")] {
                prop_assert_eq!(&serde_json::from_str::<Value>(&escaped_lines(&printed)).unwrap(), &document);
            }
        }
    }
}
