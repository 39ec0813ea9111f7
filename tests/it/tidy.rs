//! The layers of `src/` depend on each other in one direction only.

use std::fs;
use std::path::{Path, PathBuf};

/// Each folder of `src/`, and the others that it may name, crates of the workspace included. See ARCHITECTURE.md.
const MAY_USE: &[(&str, &[&str])] = &[
    ("front", &[]),
    ("config", &[]),
    ("terminal", &[]),
    ("telemetry", &["config", "terminal"]),
    ("cli", &["config", "terminal"]),
    ("app", &["front", "config"]),
    ("signals", &[]),
    ("main", &["app", "cli", "config", "signals", "telemetry"]),
    ("lib", &[]),
];

/// Crates that only some folders may name.
const CRATES: &[(&str, &[&str])] = &[
    ("pool", &["app"]),
    // The configuration has a module of that name.
    ("storage", &["app", "config"]),
    ("state_sqlite", &["app", "config"]),
    ("state", &["front", "app", "config"]),
    ("engine", &["front", "app", "config"]),
    ("webhook", &["front", "app", "config"]),
    ("hooks", &["app", "config"]),
    ("outbound", &["front", "config", "cli", "app"]),
    ("keyring", &["front", "config", "cli", "app"]),
    ("edge", &["front", "app", "config"]),
    ("dialects", &["front", "app", "config"]),
    ("actix_web", &["front", "app", "cli"]),
    ("actix_server", &["app"]),
    ("reqwest", &["config", "cli"]),
    ("serde", &["front", "config", "cli"]),
    ("serde_json", &["front", "telemetry", "cli"]),
    ("tokio", &["front", "app", "cli", "signals", "main"]),
];

#[test]
fn layers_name_only_what_they_may() {
    let mut wrong = Vec::new();
    for file in rust_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let relative = file.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
        let layer = relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let allowed = MAY_USE.iter().find(|(known, _)| *known == layer);
        let Some((_, allowed)) = allowed else { panic!("{layer} is not in the list of layers") };
        let own = format!("crate::{layer}");
        // Tests may use more: fakes and real verifiers are theirs.
        let text = fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for named in line.match_indices("crate::").map(|(at, _)| &line[at + 7..]) {
                let named: String = named.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if format!("crate::{named}") != own && !allowed.contains(&named.as_str()) {
                    wrong.push(format!("{}: {layer} may not use {named}", relative.display()));
                }
            }
            let used = CRATES.iter().find(|(name, _)| line.contains(&format!("use {name}::")));
            if let Some((name, _)) = used.filter(|(_, layers)| !layers.contains(&layer) && !is_test_file(relative)) {
                wrong.push(format!("{}: {layer} may not use the crate {name}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// rustfmt breaks lines of code and leaves comments alone.
#[test]
fn comments_are_no_wider_than_code() {
    const WIDTH: usize = 120;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["bench/src", "crates", "fuzz/fuzz_targets", "src", "storage", "tests"];
    let files = folders.iter().flat_map(|folder| rust_files(&root.join(folder)));
    let mut wide = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let comments = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//"));
        let too_wide = comments.filter(|(_, line)| line.chars().count() > WIDTH);
        let file = file.strip_prefix(root).unwrap().display();
        wide.extend(too_wide.map(|(index, _)| format!("{file}:{}", index + 1)));
    }
    assert!(wide.is_empty(), "{wide:#?}");
}

fn is_test_file(path: &Path) -> bool {
    ["tests.rs", "testing.rs", "conformance.rs"].iter().any(|name| path.ends_with(name))
        || path.components().any(|part| part.as_os_str() == "conformance")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
