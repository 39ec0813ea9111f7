//! Every crate has a page of orientation, and the files that a page names exist.

use std::fs;
use std::path::{Path, PathBuf};

use super::{relative, root};

#[test]
fn every_crate_has_a_page_that_names_existing_files() {
    let mut wrong = Vec::new();
    for folder in crates() {
        let Ok(page) = fs::read_to_string(folder.join("README.md")) else {
            wrong.push(format!("{}: has no README.md", relative(&folder)));
            continue;
        };
        let missing = named_files(&page).filter(|name| !exists(&folder, name));
        wrong.extend(missing.map(|name| format!("{}/README.md: there is no {name}", relative(&folder))));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Lists the crates of the workspace, and the program.
fn crates() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).chain([root().join("storage"), root().join("src")]).collect()
}

/// Returns the files and folders that a page names in code spans.
fn named_files(page: &str) -> impl Iterator<Item = &str> {
    let spans = page.split('`').skip(1).step_by(2);
    spans.filter(|name| {
        let is_path = name.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
        is_path && [".rs", ".toml", ".mjs", ".py", ".json", "/"].iter().any(|end| name.ends_with(end))
    })
}

/// Reports whether a file that a page of this folder names exists: relative to the source or the folder of
/// its crate, relative to the repository, or by its name alone anywhere below the source or the tests.
fn exists(folder: &Path, name: &str) -> bool {
    let source = if folder.ends_with("src") { folder.to_owned() } else { folder.join("src") };
    if [&source, folder, root()].iter().any(|from| from.join(name).exists()) {
        return true;
    }
    let is_name = !name.trim_end_matches('/').contains('/');
    is_name && [source, root().join("tests"), root().join("docs")].iter().any(|from| is_below(from, name))
}

fn is_below(folder: &Path, name: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        path.is_dir() && !path.is_symlink() && (path.join(name).exists() || is_below(&path, name))
    })
}

#[test]
fn a_file_that_is_named_and_missing_is_found() {
    let engine = root().join("crates/engine");
    let named: Vec<_> = named_files("`a.rs` and `b/`, not `c`, `d e.rs` or `E::f`").collect();
    assert_eq!(named, ["a.rs", "b/"]);
    for (name, is_there) in [
        ("commit.rs", true),
        ("writer/", true),
        ("timing.rs", true),
        ("src/app/web.rs", true),
        ("tests/it/engine.rs", true),
        ("no_such.rs", false),
        ("src/app/no_such.rs", false),
    ] {
        assert_eq!(exists(&engine, name), is_there, "{name}");
    }
}
