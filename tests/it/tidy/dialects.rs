//! Dialects do not depend on each other, and no layer below depends on a dialect.

use std::fs;
use std::path::{Path, PathBuf};

use super::{files, root};

#[test]
fn no_dialect_names_another() {
    let source = root().join("crates/dialects/src");
    let entries = fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<PathBuf> = entries.filter(|path| path.join("mod.rs").exists()).collect();
    assert_eq!(folders.len(), ::dialects::all().len(), "each dialect is a folder with all of it");
    let name = |folder: &Path| folder.file_name().unwrap().to_str().unwrap().to_owned();
    for folder in &folders {
        for file in files(folder, "rs") {
            let text = fs::read_to_string(&file).unwrap();
            let others = folders.iter().filter(|other| *other != folder).map(|other| name(other));
            for other in others {
                assert!(!names(&text, &other), "{} names {other}", file.display());
            }
        }
    }
}

/// Reports whether a text names a module that is reached through `crate::` or `super::`, also within their
/// braces.
fn names(text: &str, module: &str) -> bool {
    let is_it = |path: &str| {
        path.strip_prefix(module).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    let reaches = |(at, found): (usize, &str)| match text[at + found.len()..].strip_prefix('{') {
        Some(group) => group.split(';').next().unwrap_or_default().split([',', '{']).any(|path| is_it(path.trim())),
        None => is_it(&text[at + found.len()..]),
    };
    text.match_indices("crate::").chain(text.match_indices("super::")).any(reaches)
}

#[test]
fn a_module_is_found_however_it_is_named() {
    for (text, named) in [
        ("crate::tus::reply()", true),
        ("use crate::tus;", true),
        ("use super::super::tus as other;", true),
        ("use crate::{digests, tus};", true),
        ("use crate::{\n    digests,\n    tus::{reply, wire},\n};", true),
        ("use super::{tus::wire, pump};", true),
        ("use crate::{digests, pump}; // as tus does", false),
        ("use crate::tussle;", false),
        ("Dialect::Tus, \"tus\"", false),
    ] {
        assert_eq!(names(text, "tus"), named, "{text}");
    }
}

#[test]
fn the_edge_knows_no_field_and_no_path_of_a_dialect() {
    let sources = files(&root().join("crates/edge/src"), "rs");
    for file in sources.iter().filter(|file| !file.ends_with("tests.rs")) {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for word in ["\"tus-", "\"upload-", "\"Upload-", "\"x-goog", "\"/files", "\"/upload/", "\"/api/"] {
                assert!(!line.contains(word), "{}: {line}", file.display());
            }
        }
    }
}
