//! No public type name means two things.
//!
//! A name that two crates declare has to be qualified wherever both are used, and a search for it finds both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{files, relative, root};

/// Names that more than one crate declares, each with the reason.
const SHARED: &[(&str, &str)] = &[
    ("Attempt", WIRE),
    ("Backlog", WIRE),
    ("Endpoint", WIRE),
    ("EndpointChange", WIRE),
    ("Epoch", "the storage knows no domain"),
    ("Error", "as in every crate whose operations fail in one way"),
    ("Facts", WIRE),
    ("Health", WIRE),
    ("HookRequest", WIRE),
    ("KeyRotation", WIRE),
    ("Problem", WIRE),
    ("Result", "as `Error`"),
    ("Resumption", WIRE),
    ("Track", WIRE),
    ("UploadStatus", WIRE),
];

/// The reason for a type of `api` that has the name of the type whose JSON it is.
const WIRE: &str = "the form of it in the API";

/// Returns the crates that declare each public type.
fn declarations() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (krate, folder) in crates() {
        for file in files(&root().join(folder), "rs").iter().filter(|file| !is_of_tests(file)) {
            for name in public_types(&fs::read_to_string(file).unwrap()) {
                found.entry(name.to_owned()).or_default().insert(krate.clone());
            }
        }
    }
    found
}

/// Returns each library of the workspace, with the folder of its sources.
fn crates() -> Vec<(String, String)> {
    let folders = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    let found = folders.filter(|folder| folder.is_dir()).map(|folder| {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let sources = format!("{}/src", relative(&folder));
        (name, sources)
    });
    found.chain([("storage".to_owned(), "storage/src".to_owned())]).collect()
}

/// Reports whether a file holds tests or code that only tests use.
fn is_of_tests(file: &Path) -> bool {
    let path = relative(file);
    path.split(['/', '.']).any(|part| ["tests", "testing", "conformance"].contains(&part))
}

/// Returns the public types that a source file declares, without those that are visible in its crate only.
fn public_types(source: &str) -> impl Iterator<Item = &str> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().filter_map(|line| {
        let item = line.trim_start().strip_prefix("pub ")?;
        let name = ["struct ", "enum ", "trait ", "type "].iter().find_map(|kind| item.strip_prefix(kind))?;
        name.split(|part: char| !part.is_alphanumeric()).next()
    })
}

#[test]
fn a_public_type_is_declared_in_one_crate() {
    let shared: BTreeMap<&str, &str> = SHARED.iter().copied().collect();
    let ambiguous = declarations().into_iter().filter(|(_, crates)| crates.len() > 1).collect::<BTreeMap<_, _>>();
    let wrong: Vec<String> = ambiguous
        .iter()
        .filter(|(name, _)| !shared.contains_key(name.as_str()))
        .map(|(name, crates)| format!("{name}: {}", crates.iter().cloned().collect::<Vec<_>>().join(", ")))
        .collect();
    assert!(wrong.is_empty(), "rename all but one, or list the name with a reason:\n{}", wrong.join("\n"));
    let stale: Vec<&str> = shared.keys().copied().filter(|name| !ambiguous.contains_key(*name)).collect();
    assert!(stale.is_empty(), "declared in one crate only, so no exception is needed: {stale:?}");
}

#[test]
fn declarations_are_found_whatever_their_form() {
    let source = "\
        pub struct Plain;\n\
        pub struct Generic<'a, T>(&'a T);\n\
        pub(crate) struct Hidden;\n\
        named! {\n    pub enum Named {\n    }\n}\n\
        pub trait Port: Send {\n    type Item;\n}\n\
        pub type Alias = u64;\n\
        pub fn structure() {}\n\
        #[cfg(test)]\nmod tests {\n    pub struct Fixture;\n}\n";
    assert_eq!(public_types(source).collect::<Vec<_>>(), ["Plain", "Generic", "Named", "Port", "Alias"]);
}
