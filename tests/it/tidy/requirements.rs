//! Citations of requirements, such as `tus 53`, and the lists in `docs/requirements` that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{files, relative, root};

/// The kinds of sources that cite.
const CITING: [&str; 8] = ["rs", "mjs", "py", "sh", "java", "go", "sql", "toml"];

/// Versions of protocols, which look like citations.
const VERSIONS: [&str; 2] = ["tus 1.0", "tus 2.0"];

#[test]
fn every_citation_of_a_requirement_has_an_entry() {
    let lists = lists();
    let mut unresolved = Vec::new();
    let mut cited = 0;
    for path in CITING.iter().flat_map(|extension| files(root(), extension)) {
        let text = fs::read_to_string(&path).unwrap();
        for (list, entry) in text.lines().flat_map(|line| citations(line, &lists)) {
            cited += 1;
            if !lists[&list].contains(&entry) {
                unresolved.push(format!("{}: {list} {entry}", relative(&path)));
            }
        }
    }
    assert!(unresolved.is_empty(), "cited, but not in docs/requirements:\n{}", unresolved.join("\n"));
    assert!(cited > 500, "only {cited} citations were found: are they still read?");
}

/// Reads the entries of each list: lines such as `- **tus 53** …`.
fn lists() -> BTreeMap<String, BTreeSet<String>> {
    let mut lists = BTreeMap::new();
    for path in files(&root().join("docs/requirements"), "md") {
        let list = path.file_stem().unwrap().to_string_lossy().into_owned();
        if list == "README" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut entries = BTreeSet::new();
        for line in text.lines().filter_map(|line| line.trim_start().strip_prefix("- **")) {
            let (name, _) = line.split_once("**").unwrap();
            let entry = name.strip_prefix(&format!("{list} "));
            let entry = entry.unwrap_or_else(|| panic!("{}: the entry {name} is of another list", relative(&path)));
            assert!(entries.insert(entry.to_owned()), "{}: {entry} is there twice", relative(&path));
        }
        lists.insert(list, entries);
    }
    lists
}

/// Finds the citations in a line: `tus 53`, `ietf 22, 59`, `ietf 23 to 31`, `webhooks R1, R14`.
fn citations(line: &str, lists: &BTreeMap<String, BTreeSet<String>>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for list in lists.keys() {
        for (at, _) in line.match_indices(&format!("{list} ")) {
            let starts_word = !line[..at].ends_with(|last: char| last.is_alphanumeric() || "/-._".contains(last));
            if !starts_word || VERSIONS.iter().any(|version| line[at..].starts_with(version)) {
                continue;
            }
            let mut rest = &line[at + list.len() + 1..];
            while let Some(entry) = entry(rest, list) {
                found.push((list.clone(), entry.to_owned()));
                rest = &rest[entry.len()..];
                let links = [", and ", ", ", " and ", " to "];
                let Some(next) = links.iter().find_map(|link| rest.strip_prefix(link)) else { break };
                rest = next;
            }
        }
    }
    found
}

/// Reads the number of an entry from the left: `53`, `2.6`, `R14`.
fn entry<'a>(text: &'a str, list: &str) -> Option<&'a str> {
    let is_lettered = ["webhooks", "access", "scale-out"].contains(&list);
    let letter = usize::from(is_lettered && text.starts_with(|first: char| first.is_ascii_uppercase()));
    if is_lettered && letter == 0 {
        return None;
    }
    let digits = text[letter..].find(|next: char| !next.is_ascii_digit()).unwrap_or(text.len() - letter);
    let mut end = letter + digits;
    let fraction =
        text[end..].strip_prefix('.').map_or(0, |rest| rest.chars().take_while(char::is_ascii_digit).count());
    if fraction > 0 {
        end += 1 + fraction;
    }
    let goes_on = text[end..].starts_with(|next: char| next.is_alphanumeric());
    (digits > 0 && !goes_on).then(|| &text[..end])
}

#[test]
fn citations_are_found_in_every_form() {
    let lists = lists();
    let cases: [(&str, &[&str]); 7] = [
        ("// tus 53: a mismatch", &["tus 53"]),
        ("\"ietf 22, 59, and more\"", &["ietf 22", "ietf 59"]),
        ("(webhooks R1, R14).", &["webhooks R1", "webhooks R14"]),
        ("ietf 51 to 53 and 78: interop", &["ietf 51", "ietf 53", "ietf 78"]),
        ("dialects 2.6, 4: HEAD", &["dialects 2.6", "dialects 4"]),
        ("tus 1.0.0 and tus 1.0; 3 webhooks, access 2", &[]),
        ("docs/tus 4 and tus 40x", &[]),
    ];
    for (line, expected) in cases {
        let found: Vec<_> = citations(line, &lists).iter().map(|(list, entry)| format!("{list} {entry}")).collect();
        assert_eq!(found, expected, "{line}");
    }
}
