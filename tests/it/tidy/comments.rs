//! The width of comments, which rustfmt does not wrap.

use std::fs;

use super::{files, relative, root};

/// The longest permitted line of a comment, in columns, with its indentation.
const MOST_COLUMNS: usize = 110;

#[test]
fn no_line_of_a_comment_is_too_long() {
    let mut wrong = Vec::new();
    let sources = ["src", "crates", "storage", "tests", "bench", "fuzz"];
    for file in sources.iter().flat_map(|folder| files(&root().join(folder), "rs")) {
        for (place, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            if too_long(line) {
                wrong.push(format!("{}:{}: {line}", relative(&file), place + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{} lines are too long:\n{}", wrong.len(), wrong.join("\n"));
}

/// Reports whether a line is too long. Tables, drawings and lines without a space to break at are exempt.
fn too_long(line: &str) -> bool {
    let text = line.trim_start();
    let Some(words) = text.strip_prefix("//").map(|text| text.trim_start_matches(['/', '!']).trim()) else {
        return false;
    };
    let is_drawn = words.starts_with('|') || words.contains(['─', '│', '►']);
    line.chars().count() > MOST_COLUMNS && words.contains(' ') && !is_drawn
}

#[test]
fn only_comments_that_can_be_wrapped_are_judged() {
    let words = "word ".repeat(25);
    assert!(too_long(&format!("    /// {words}")));
    assert!(too_long(&format!("//! {words}")));
    assert!(!too_long(&format!("let text = \"{words}\"; // as it is")));
    assert!(!too_long(&format!("/// | {words}|")));
    assert!(!too_long(&format!("// https://example.com/{}", "x".repeat(120))));
    assert!(!too_long("/// a few words"));
}
