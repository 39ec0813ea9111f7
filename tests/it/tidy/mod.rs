//! Checks of the repository that no compiler makes: dependencies, links of documents, widths of comments,
//! names with one meaning, phrases, unresolved conflicts.
//!
//! Cargo rejects a dependency that the `Cargo.toml` of a crate does not list. These tests compare the lists
//! themselves with the plan, and the folders of `src/`, which are one crate, with each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

mod comments;
mod conflicts;
mod dialects;
mod layers;
mod links;
mod names;
mod orientation;
mod phrases;
mod requirements;

/// Names, each with the names that it depends on.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Lists the files below `folder` with this extension, except for built and downloaded ones.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    const FOREIGN: [&str; 4] = ["target", "node_modules", "data", ".git"];
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_symlink() || FOREIGN.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
