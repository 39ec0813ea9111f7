//! Documents and messages use the terms of the trade.
//!
//! Rejects phrases that are never right in this repository, and doc comments and messages that begin without
//! a subject. The lists are a floor and not a style guide.

use std::fs;
use std::path::{Path, PathBuf};

use super::{files, relative, root};

/// Phrases, each with better words. A verb is listed in every form that has occurred.
const PHRASES: &[(&[&str], &str)] = &[
    (&["is told", "are told", "was told", "were told", "be told", "been told", "being told"], "notified, reported"),
    (&["told of", "told about", "tells of", "tells whether"], "notified of, reports, says"),
    (&["news"], "event, change"),
    (&["goes on with", "go on with", "went on with", "gone on with", "goes on from", "go on from"], "continue, resume"),
    (&["give up", "gives up", "given up", "gave up", "giving up"], "expire, abandon, stop retrying"),
    (&["left alone"], "the breaker opens; is not changed"),
    (&["all together"], "in total"),
    (&["of its own.", "of its own,", "of its own:", "of its own;", "of its own for"], "separate, dedicated, its own X"),
    (&["of their own.", "of their own,", "of our own.", "of our own,"], "separate, dedicated, their own X"),
    (&["as it comes", "as they come"], "unbuffered, unchanged, by default"),
    (&["by itself", "by themselves"], "automatically, alone"),
    (&["for ever"], "forever, permanently, indefinitely"),
    (&["so many bytes", "so many seconds", "for so long", "after so long", "after so many"], "this many, that long"),
    (&["whoever"], "the client, the caller, the operator"),
    (&["say no", "says no", "said no", "saying no"], "reject"),
    (&["room for", "room left", "no room", "enough room", "more room"], "disk space, memory, capacity"),
    (&["is asked for", "are asked for", "was asked for", "were asked for"], "requested"),
    (&["put off", "puts off", "puts it off", "putting off"], "postpone, extend"),
    (&["stands in the", "stand in the", "stands in its"], "is defined in, is stored in"),
    (&["in the place of"], "instead of, replaces"),
    (&["passed over"], "ignored, skipped"),
    (&["brings up to date", "bring up to date", "brought up to date"], "update, migrate"),
    (&["heed", "heeds", "heeded"], "use, apply, honor"),
    (&["wish", "wishes", "wished"], "request"),
    (&["written down", "writes down", "write down"], "recorded, stored"),
    (&["turned away", "turns away", "turn away"], "rejected, shed"),
    (&["may be had", "can be had", "to be had"], "is available"),
    (&["in its turn", "in their turn"], "in order"),
    (&["one more is"], "an additional X is"),
];

/// Beginnings of a doc comment that name no subject. It begins with what the item does or is.
const OPENINGS: &[&str] = &["What ", "Whether ", "How many ", "How much ", "How long ", "Who ", "Whoever ", "Why "];

/// Beginnings of a message that name no subject.
const HEADLESS: &[&str] = &["what ", "whatever ", "who ", "whoever ", "nobody ", "somebody "];

/// A passage of text that people read, and the line where it begins.
#[derive(Debug, PartialEq, Eq)]
struct Passage {
    line: usize,
    text: String,
}

#[test]
fn documents_speak_in_the_terms_of_the_trade() {
    let mut wrong = Vec::new();
    for file in files(root(), "md") {
        judge(&file, &paragraphs(&fs::read_to_string(&file).unwrap()), &mut wrong);
    }
    let defaults = root().join("src/config/default.toml");
    judge(&defaults, &comment_blocks(&fs::read_to_string(&defaults).unwrap(), &["#"]), &mut wrong);
    assert!(wrong.is_empty(), "{} phrases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn messages_and_help_speak_in_the_terms_of_the_trade() {
    let mut wrong = Vec::new();
    for file in sources().filter(|file| !file.ends_with("tidy/phrases.rs")) {
        let messages = literals(&fs::read_to_string(&file).unwrap());
        judge(&file, &messages, &mut wrong);
        judge_beginnings(&file, &messages, HEADLESS, &mut wrong);
    }
    assert!(wrong.is_empty(), "{} phrases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn comments_speak_in_the_terms_of_the_trade() {
    let mut wrong = Vec::new();
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        judge(&file, &comment_blocks(&text, &["///", "//!", "//"]), &mut wrong);
        judge_beginnings(&file, &comment_blocks(&text, &["///", "//!"]), OPENINGS, &mut wrong);
    }
    assert!(wrong.is_empty(), "{} phrases:\n{}", wrong.len(), wrong.join("\n"));
}

fn sources() -> impl Iterator<Item = PathBuf> {
    let folders = ["src", "crates", "storage", "tests", "bench", "fuzz"];
    folders.into_iter().flat_map(|folder| files(&root().join(folder), "rs"))
}

fn judge(file: &Path, passages: &[Passage], wrong: &mut Vec<String>) {
    for Passage { line, text } in passages {
        for (phrase, better) in phrases_in(text) {
            wrong.push(format!("{}:{line}: \"{phrase}\": write {better}", relative(file)));
        }
    }
}

fn judge_beginnings(file: &Path, passages: &[Passage], rejected: &[&str], wrong: &mut Vec<String>) {
    let headless = passages.iter().filter(|passage| rejected.iter().any(|words| passage.text.starts_with(words)));
    wrong.extend(headless.map(|Passage { line, text }| {
        let beginning: String = text.chars().take(40).collect();
        format!("{}:{line}: \"{beginning}…\": begin with a noun, or with what it does", relative(file))
    }));
}

/// Finds rejected phrases, in any case and across line breaks.
fn phrases_in(text: &str) -> Vec<(&'static str, &'static str)> {
    let words: Vec<_> = text.split_whitespace().collect();
    // A heading and a cell of a table end like a sentence.
    let text = words.join(" ").to_lowercase() + ".";
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    let has = |phrase: &str| {
        text.match_indices(phrase)
            .any(|(at, _)| !text[..at].ends_with(is_letter) && !text[at + phrase.len()..].starts_with(is_letter))
    };
    let all = PHRASES.iter().flat_map(|(phrases, better)| phrases.iter().map(move |phrase| (*phrase, *better)));
    all.filter(|(phrase, _)| has(phrase)).collect()
}

/// Returns the paragraphs of a document, without samples, code and the targets of links.
fn paragraphs(text: &str) -> Vec<Passage> {
    let mut found = Passages::default();
    let mut is_sample = false;
    for (line, text) in lines(text) {
        let is_fence = text.trim_start().starts_with("```");
        is_sample ^= is_fence;
        if is_sample || is_fence || text.trim().is_empty() {
            found.end();
        } else {
            // Each row of a table and each item of a list is a passage.
            if ["| ", "- ", "* "].iter().any(|mark| text.trim_start().starts_with(mark)) {
                found.end();
            }
            found.add(line, text);
        }
    }
    found.end();
    for passage in &mut found.all {
        passage.text = without_code(&passage.text);
    }
    found.all
}

/// Removes code spans and the targets of links from a paragraph.
fn without_code(text: &str) -> String {
    let prose: Vec<_> = text.split('`').step_by(2).collect();
    let mut links = prose.join("·");
    while let Some(at) = links.find("](") {
        let end = links[at..].find(')').map_or(links.len(), |end| at + end + 1);
        links.replace_range(at..end, "]");
    }
    links
}

/// Returns the blocks of lines that begin with one of these marks, without the marks.
fn comment_blocks(text: &str, marks: &[&str]) -> Vec<Passage> {
    let mut found = Passages::default();
    for (line, text) in lines(text) {
        let words = marks.iter().find_map(|mark| text.trim_start().strip_prefix(mark)).map(str::trim);
        match words {
            Some(words) if !words.is_empty() => found.add(line, words),
            _ => found.end(),
        }
    }
    found.end();
    for passage in &mut found.all {
        passage.text = without_code(&passage.text);
    }
    found.all
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line))
}

/// Passages that are being collected.
#[derive(Debug, Default)]
struct Passages {
    all: Vec<Passage>,
    open: Option<Passage>,
}

impl Passages {
    fn add(&mut self, line: usize, text: &str) {
        let open = self.open.get_or_insert_with(|| Passage { line, text: String::new() });
        if !open.text.is_empty() {
            open.text.push('\n');
        }
        open.text.push_str(text);
    }

    fn end(&mut self) {
        self.all.extend(self.open.take());
    }
}

/// Returns the string literals of a Rust source. Continued lines are joined; escapes stay as written.
fn literals(source: &str) -> Vec<Passage> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(at) = rest.find(['"', '\'', '/', 'r']) {
        line += rest[..at].matches('\n').count();
        let is_inside_a_name = rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        rest = &rest[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(text) = rest.strip_prefix('"') {
            let length = 1 + end_of_literal(text);
            found.push(Passage { line, text: joined(&rest[1..length - 1]) });
            length
        } else if let Some((begin, end)) = raw_literal(rest).filter(|_| !is_inside_a_name) {
            found.push(Passage { line, text: rest[begin..end].to_owned() });
            end + begin - 1
        } else {
            character(rest)
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

/// Returns the length of a literal up to and including its last quote. `text` begins after the first one.
fn end_of_literal(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text.char_indices().find(|(_, c)| {
        let ends = *c == '"' && !is_escaped;
        is_escaped = *c == '\\' && !is_escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// Joins the lines of a literal that are continued with a backslash.
fn joined(literal: &str) -> String {
    let mut pieces = literal.split("\\\n");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| text + piece.trim_start())
}

/// Returns the bounds of the text of a raw literal at the beginning of `rest`.
fn raw_literal(rest: &str) -> Option<(usize, usize)> {
    let hashes = rest.strip_prefix('r')?.bytes().take_while(|byte| *byte == b'#').count();
    let begin = hashes + 2;
    rest[begin - 1..].starts_with('"').then_some(())?;
    let last = format!("\"{}", "#".repeat(hashes));
    let length = rest[begin..].find(&last)?;
    Some((begin, begin + length))
}

/// Returns the length of the character literal at the beginning of `rest`, or 1 if there is none.
fn character(rest: &str) -> usize {
    let Some(text) = rest.strip_prefix('\'') else { return 1 };
    let mut characters = text.char_indices();
    match characters.next() {
        Some((_, '\\')) => text.get(2..).and_then(|more| more.find('\'')).map_or(1, |end| end + 4),
        Some(_) => characters.next().filter(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 2),
        None => 1,
    }
}

#[test]
fn a_phrase_is_found_across_lines_and_as_a_whole_only() {
    let found = |text| phrases_in(text).into_iter().map(|(phrase, _)| phrase).collect::<Vec<_>>();
    assert_eq!(found("It waits for\n  ever. Whoever asks"), ["for ever", "whoever"]);
    assert_eq!(found("a thread of its own"), ["of its own."]);
    assert_eq!(found("for everyone, newsletters, a_news, of its own version"), [""; 0]);
}

#[test]
fn code_and_samples_are_not_prose() {
    let text = "# One `news`\ntwo\n\n```sh\nnews\n```\n[three](news.md)\n| a |\n| b |\n";
    let expected = [(1, "# One ·\ntwo"), (7, "[three]"), (8, "| a |"), (9, "| b |")];
    let expected = expected.map(|(line, text)| Passage { line, text: text.to_owned() });
    assert_eq!(paragraphs(text), expected);
}

#[test]
fn literals_are_found_among_code_and_comments() {
    let source = r##"
        let a = "one \
                 two"; // "no"
        let b = ('"', '\'', '\u{e9}', r#"a "quoted" text"#);
        fn f<'a>(x: &'a str) -> &'a str { "th\"ree" }
    "##;
    let found: Vec<_> = literals(source).into_iter().map(|Passage { line, text }| (line, text)).collect();
    let expected = [(2, "one two"), (4, "a \"quoted\" text"), (5, "th\\\"ree")];
    assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
}

#[test]
fn a_block_of_comments_is_one_passage() {
    let found = comment_blocks("/// What is\n/// due\n///\n/// more\nfn a() {}\n", &["///", "//!"]);
    let expected = [(1, "What is\ndue"), (4, "more")];
    assert_eq!(found, expected.map(|(line, text)| Passage { line, text: text.to_owned() }));
}
