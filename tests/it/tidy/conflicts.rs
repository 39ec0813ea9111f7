//! No file contains the marks of an unresolved merge.

use std::fs;

use super::{files, relative, root};

#[test]
fn no_file_contains_an_unresolved_conflict() {
    let all = ["md", "rs", "toml", "sql", "sh", "py", "mjs", "yml"].into_iter();
    let is_mark = |line: &str| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ");
    let wrong: Vec<_> = all
        .flat_map(|extension| files(root(), extension))
        .filter(|file| fs::read_to_string(file).unwrap().lines().any(is_mark))
        .map(|file| relative(&file))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
