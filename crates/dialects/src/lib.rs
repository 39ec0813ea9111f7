//! The dialects clients speak. Each is two pure translations around one engine call, and decides nothing.
//!
//! A dialect is a folder with `wire` (header text to command and back; no I/O and no HTTP crate), `reply`
//! (outcome or rejection to response) and `mod` (handlers of a few lines). It hands one value to the front
//! ([`dialect::Dialect`]): its addresses, the fields it reads and shows, and how it is recognised. No dialect
//! names another.

#![warn(clippy::wildcard_enum_match_arm)]

mod attachment;
mod caller;
pub mod choice;
pub mod dialect;
mod digests;
mod download;
mod ietf;
mod metadata;
pub mod missing;
mod names;
mod pump;
mod ranged;
mod structured;
#[cfg(test)]
mod testing;
pub mod trouble;
mod tus;
mod upload_fields;
pub mod uploads;

use dialect::Dialect;

/// Every dialect. Where two might be meant, the first one is.
pub fn all() -> Vec<Dialect> {
    vec![ietf::dialect(), tus::dialect(), ranged::dialect()]
}

/// Every media type that PATCH takes, in the words of `Accept-Patch`.
pub fn patch_types() -> String {
    all().iter().filter_map(|dialect| dialect.patch_type).collect::<Vec<_>>().join(", ")
}

/// The names that uploads are recorded under, of every dialect.
pub fn names() -> Vec<domain::dialect::Dialect> {
    all().iter().flat_map(|dialect| dialect.records).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    fn sources(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn no_dialect_names_another() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
        let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
        let folders: Vec<PathBuf> = entries.filter(|path| path.join("mod.rs").exists()).collect();
        assert_eq!(folders.len(), super::all().len(), "each dialect is a folder with all of it");
        let name = |folder: &Path| folder.file_name().unwrap().to_str().unwrap().to_owned();
        for folder in &folders {
            for file in sources(folder) {
                let text = fs::read_to_string(&file).unwrap();
                let others = folders.iter().filter(|other| *other != folder).map(|other| name(other));
                for other in others {
                    assert!(!names(&text, &other), "{} names {other}", file.display());
                }
            }
        }
    }

    /// Whether a text names a module that is reached through `crate::` or `super::`, or is in their braces.
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
}
