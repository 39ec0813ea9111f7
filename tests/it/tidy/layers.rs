//! Dependencies point one way, between crates and between the folders of `src/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{Graph, files, relative, root};

/// Each crate of the workspace, and the others that it may use. ARCHITECTURE.md says why.
const CRATES: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("pool", &[]),
    ("api", &["domain"]),
    ("keyring", &["domain"]),
    ("media", &["domain"]),
    ("storage", &["pool"]),
    ("state", &["domain"]),
    ("state-rows", &["domain", "state"]),
    ("state-sqlite", &["domain", "state", "state-rows"]),
    ("engine", &["api", "domain", "media", "pool", "state", "storage"]),
    ("outbound", &["domain"]),
    ("webhook", &["api", "domain", "keyring", "outbound", "state"]),
    ("hooks", &["api", "domain", "outbound", "state"]),
    ("edge", &["api", "domain", "keyring", "pool"]),
    ("dialects", &["api", "domain", "edge", "engine"]),
];

/// Libraries that only some crates may use; `longshore` is the program in `src/`.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("actix-web", &["edge", "dialects", "longshore"]),
    ("actix-http", &["edge"]),
    ("actix-server", &["edge", "longshore"]),
    ("actix-service", &["edge"]),
    ("reqwest", &["outbound", "webhook", "hooks", "longshore"]),
    ("memmap2", &["pool"]),
    ("rusqlite", &["state-sqlite"]),
    ("serde", &["api", "state-rows", "hooks", "webhook", "dialects", "longshore"]),
];

/// Each folder or file of `src/`, and the others that it may name.
const FOLDERS: &[(&str, &[&str])] = &[
    ("front", &[]),
    ("config", &[]),
    ("terminal", &[]),
    ("signals", &[]),
    ("telemetry", &["config", "terminal"]),
    ("cli", &["config", "terminal"]),
    ("app", &["config", "front"]),
    ("main", &["app", "cli", "config", "signals", "telemetry"]),
    ("lib", &[]),
];

/// Crates that only some folders of `src/` may name.
const NAMED_IN: &[(&str, &[&str])] = &[
    // The settings of a layer are its own; the configuration reads into them.
    ("state_sqlite", &["app", "config"]),
    ("state", &["app", "config"]),
    ("storage", &["app", "config"]),
    ("pool", &["app"]),
    ("engine", &["app", "config", "front"]),
    ("webhook", &["app", "config", "front"]),
    ("hooks", &["app", "config"]),
    ("outbound", &["app", "cli", "config", "front"]),
    ("keyring", &["app", "cli", "config", "front"]),
    ("dialects", &["app", "config", "front"]),
    ("edge", &["app", "config", "front"]),
    ("actix_server", &["app"]),
    ("actix_web", &["app", "cli", "front"]),
    ("reqwest", &["cli", "config"]),
    ("serde", &["cli", "config", "front"]),
    ("serde_json", &["cli", "front", "telemetry"]),
    ("tokio", &["app", "cli", "front", "main", "signals"]),
];

/// A `Cargo.toml` of the workspace.
struct Manifest {
    name: String,
    used: BTreeSet<String>,
}

fn manifests() -> Vec<Manifest> {
    let crates = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    let folders = crates.chain([root().join("storage"), root().to_path_buf()]);
    let read = |folder: std::path::PathBuf| {
        let text = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let name = manifest["package"]["name"].as_str().unwrap();
        let dependencies = manifest["dependencies"].as_table().unwrap();
        // What a feature for tests brings is not part of the program.
        let is_used = |how: &toml::Value| how.get("optional").is_none();
        let used = dependencies.iter().filter(|(_, how)| is_used(how)).map(|(name, _)| name.clone()).collect();
        Manifest { name: name.strip_prefix("longshore-").unwrap_or(name).to_owned(), used }
    };
    folders.map(read).collect()
}

#[test]
fn crates_use_only_what_they_may() {
    let known: BTreeMap<_, _> = CRATES.iter().copied().collect();
    let mut wrong = Vec::new();
    for Manifest { name, used } in manifests() {
        for (library, users) in LIBRARIES {
            if used.contains(*library) && !users.contains(&name.as_str()) {
                wrong.push(format!("{name} may not use {library}"));
            }
        }
        if name == "longshore" {
            continue;
        }
        let Some(allowed) = known.get(name.as_str()) else {
            wrong.push(format!("{name} is not in the list of crates"));
            continue;
        };
        let ours = used.iter().filter(|used| known.contains_key(used.as_str()));
        wrong.extend(
            ours.filter(|used| !allowed.contains(&used.as_str())).map(|used| format!("{name} may not use {used}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn neither_crates_nor_folders_depend_in_circles() {
    let crates: Graph = manifests().into_iter().map(|manifest| (manifest.name, manifest.used)).collect();
    assert_eq!(circle(&crates), None);
    assert_eq!(circle(&folders()), None);
}

#[test]
fn folders_name_only_what_they_may() {
    let mut wrong = Vec::new();
    for (folder, named) in folders() {
        let allowed = FOLDERS.iter().find(|(known, _)| *known == folder).map(|(_, allowed)| *allowed);
        let Some(allowed) = allowed else { panic!("{folder} is not in the list of folders") };
        wrong.extend(
            named
                .iter()
                .filter(|name| !allowed.contains(&name.as_str()))
                .map(|name| format!("{folder} may not use {name}")),
        );
    }
    for (folder, _, line) in source_lines() {
        for (name, folders) in NAMED_IN {
            if line.trim_start().starts_with(&format!("use {name}::")) && !folders.contains(&folder.as_str()) {
                wrong.push(format!("{folder} may not use the crate {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A re-export would hand a name on to those who may not use its crate.
#[test]
fn no_crate_hands_on_what_is_of_another() {
    let mut wrong = Vec::new();
    let ours: Vec<String> = CRATES.iter().map(|(name, _)| name.replace('-', "_")).collect();
    for file in ["crates", "storage/src", "src"].iter().flat_map(|folder| files(&root().join(folder), "rs")) {
        for line in fs::read_to_string(&file).unwrap().lines() {
            let Some(path) = line.trim_start().strip_prefix("pub use ") else { continue };
            let first = path.trim_start_matches("::").split([':', ';', ' ']).next().unwrap_or_default();
            if ours.iter().any(|name| name == first) && !is_own_module(&file, first) {
                wrong.push(format!("{}: {line}", relative(&file)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether a name is that of a module beside this file, and not of a crate.
fn is_own_module(file: &std::path::Path, name: &str) -> bool {
    let text = fs::read_to_string(file).unwrap();
    text.lines().any(|line| line.trim_start_matches("pub ").trim_start_matches("pub(crate) ") == format!("mod {name};"))
}

/// The folders and files of `src/`, each with those that it names.
fn folders() -> Graph {
    let mut graph = Graph::new();
    for (folder, _, line) in source_lines() {
        let named = graph.entry(folder.clone()).or_default();
        for (at, _) in line.match_indices("crate::").filter(|(at, _)| !line[..*at].ends_with('$')) {
            let name: String = line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name != folder && !name.is_empty() {
                named.insert(name);
            }
        }
    }
    graph
}

/// The lines of `src/` that are neither comments nor tests, each with its folder and its file.
fn source_lines() -> Vec<(String, String, String)> {
    let mut lines = Vec::new();
    let source = root().join("src");
    for file in files(&source, "rs").into_iter().filter(|file| !is_test(file)) {
        let path = file.strip_prefix(&source).unwrap();
        let folder = path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&file).unwrap();
        // Tests may use more: fakes and real verifiers are theirs.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            lines.push((folder.clone(), relative(&file), line.to_owned()));
        }
    }
    lines
}

fn is_test(path: &std::path::Path) -> bool {
    path.components().any(|part| ["tests", "tests.rs", "testing.rs"].contains(&part.as_os_str().to_str().unwrap()))
}

/// Finds a way from a name back to itself, if there is one.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn visit(graph: &Graph, name: &str, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|passed| passed == name) {
            return Some(way[start..].to_vec());
        }
        if !done.insert(name.to_owned()) {
            return None;
        }
        way.push(name.to_owned());
        let found = graph.get(name).into_iter().flatten().find_map(|next| visit(graph, next, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|name| visit(graph, name, &mut Vec::new(), &mut done))
}

#[test]
fn a_circle_is_found() {
    let graph = |ways: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in ways {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])), Some(vec!["b".to_owned(), "c".to_owned()]));
    assert_eq!(circle(&graph(&[("a", "a")])), Some(vec!["a".to_owned()]));
}
