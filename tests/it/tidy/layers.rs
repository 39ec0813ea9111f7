//! Dependencies point in one direction, between crates and between the folders of `src/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{Graph, files, relative, root};

/// Each crate of the workspace, and the crates that it may use. ARCHITECTURE.md gives the reasons.
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
    ("state-postgres", &["domain", "state", "state-rows"]),
    ("engine", &["api", "domain", "media", "pool", "state", "storage"]),
    ("cluster", &["domain", "engine", "keyring", "state"]),
    ("outbound", &["domain"]),
    ("storage-object", &["outbound", "storage"]),
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
    ("hyper", &["cluster"]),
    ("hyper-util", &["cluster"]),
    ("object_store", &["storage-object"]),
    ("quick-xml", &["storage-object"]),
    ("reqwest", &["cluster", "outbound", "webhook", "hooks", "storage-object", "longshore"]),
    ("memmap2", &["pool"]),
    ("rusqlite", &["state-sqlite"]),
    ("tokio-postgres", &["state-postgres"]),
    ("tokio-postgres-rustls", &["state-postgres"]),
    ("mp4-atom", &["media"]),
    ("infer", &["media"]),
    ("serde", &["api", "cluster", "state-rows", "hooks", "webhook", "dialects", "storage-object", "longshore"]),
    (
        "serde_json",
        &["api", "cluster", "state-rows", "state-sqlite", "hooks", "webhook", "edge", "dialects", "longshore"],
    ),
    (
        "tokio",
        &[
            "pool",
            "storage",
            "storage-object",
            "state",
            "state-sqlite",
            "state-postgres",
            "engine",
            "cluster",
            "outbound",
            "webhook",
            "hooks",
            "edge",
            "dialects",
            "longshore",
        ],
    ),
];

/// Crates that only compute, or read and write text, and every library that they may use.
const PURE: &[(&str, &[&str])] = &[
    ("domain", &["jiff", "thiserror", "uuid"]),
    ("api", &["base64", "serde", "serde_json"]),
    ("keyring", &["base64", "hmac", "sha2", "subtle", "thiserror"]),
    ("state-rows", &["base64", "bytes", "serde", "serde_json"]),
    ("media", &["bytes", "infer", "memchr", "mp4-atom", "tracing"]),
    ("pool", &["bytes", "memmap2", "tokio"]),
];

/// Each folder or file of `src/`, and the others that it may use.
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

/// Crates that only some folders of `src/` may use.
const NAMED_IN: &[(&str, &[&str])] = &[
    // Each layer owns its settings; the configuration reads into them.
    ("state_sqlite", &["app", "config"]),
    ("state_postgres", &["app", "config"]),
    ("state", &["app", "config"]),
    ("state_rows", &["app"]),
    ("storage", &["app", "config"]),
    ("storage_object", &["app", "config"]),
    ("pool", &["app"]),
    ("engine", &["app", "config", "front"]),
    ("cluster", &["app", "config", "front"]),
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
    ("serde_json", &["cli", "config", "front", "telemetry"]),
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
        Manifest::of(&text.parse().unwrap())
    };
    folders.map(read).collect()
}

impl Manifest {
    fn of(manifest: &toml::Table) -> Self {
        let name = manifest["package"]["name"].as_str().unwrap();
        let everywhere = manifest.get("dependencies");
        let somewhere =
            manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::values);
        let tables = everywhere.into_iter().chain(somewhere.filter_map(|target| target.get("dependencies")));
        // The dependencies of the `testing` feature are not part of the program.
        let testing = manifest.get("features").and_then(|features| features.get("testing")?.as_array());
        let for_tests: Vec<_> = testing.into_iter().flatten().filter_map(|brought| brought.as_str()).collect();
        let is_used = |name: &str, how: &toml::Value| {
            how.get("optional").is_none() || !for_tests.contains(&format!("dep:{name}").as_str())
        };
        let dependencies = tables.filter_map(toml::Value::as_table).flatten();
        let used = dependencies.filter(|(name, how)| is_used(name, how)).map(|(name, _)| name.clone()).collect();
        Self { name: name.strip_prefix("longshore-").unwrap_or(name).to_owned(), used }
    }
}

#[test]
fn all_that_a_program_may_be_made_of_is_read_from_a_manifest() {
    let manifest = r#"
        package.name = "longshore-a"
        features = { testing = ["dep:rand", "b/testing"], more = ["dep:reqwest"] }
        [dependencies]
        b.workspace = true
        rand = { workspace = true, optional = true }
        reqwest = { workspace = true, optional = true }
        [dev-dependencies]
        proptest.workspace = true
        [target."cfg(unix)".dependencies]
        rustix.workspace = true
    "#;
    let Manifest { name, used } = Manifest::of(&manifest.parse().unwrap());
    assert_eq!((name.as_str(), used), ("a", ["b", "reqwest", "rustix"].map(str::to_owned).into()));
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
        if let Some((_, libraries)) = PURE.iter().find(|(pure, _)| *pure == name) {
            let foreign = used.iter().filter(|used| !known.contains_key(used.as_str()));
            let foreign = foreign.filter(|used| !libraries.contains(&used.as_str()));
            wrong.extend(foreign.map(|used| format!("{name} may not use {used}")));
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
    for (folder, text) in sources() {
        for (name, _) in NAMED_IN.iter().filter(|(_, folders)| !folders.contains(&folder.as_str())) {
            let lines = text.lines().filter(|line| names_crate(line, name));
            wrong.extend(lines.map(|line| format!("{folder} may not use the crate {name}: {line}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A re-export would pass a name on to crates that may not use its crate.
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

/// Reports whether a name is that of a module beside this file, and not of a crate.
fn is_own_module(file: &std::path::Path, name: &str) -> bool {
    let text = fs::read_to_string(file).unwrap();
    text.lines().any(|line| line.trim_start_matches("pub ").trim_start_matches("pub(crate) ") == format!("mod {name};"))
}

/// Returns the folders and files of `src/`, each with those that it uses.
fn folders() -> Graph {
    let mut graph = Graph::new();
    for (folder, text) in sources() {
        let named = own_names(&text).into_iter().filter(|name| *name != folder).map(str::to_owned);
        graph.entry(folder.clone()).or_default().extend(named);
    }
    graph
}

/// Reports whether a line names this crate.
fn names_crate(line: &str, name: &str) -> bool {
    let is_crate = |before: &str| {
        // A path below a module leads to a module; one that begins with `::` leads to a crate.
        let before = before.strip_suffix("::").unwrap_or(before);
        !before.ends_with(|c: char| c.is_alphanumeric() || "_>:$".contains(c))
    };
    line.match_indices(&format!("{name}::")).any(|(at, _)| is_crate(&line[..at]))
}

/// Returns the modules of its own crate that a text names: the first name after each `crate::`, or all names
/// in its braces.
fn own_names(text: &str) -> Vec<&str> {
    let own = text.match_indices("crate::").filter(|(at, _)| !text[..*at].ends_with('$'));
    own.flat_map(|(at, found)| first_names(&text[at + found.len()..])).collect()
}

fn first_names(path: &str) -> Vec<&str> {
    let first = |path: &str| path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    let Some(group) = path.strip_prefix('{') else {
        return Some(&path[..first(path)]).filter(|name| !name.is_empty()).into_iter().collect();
    };
    let mut names = Vec::new();
    let (mut depth, mut begins) = (0_u32, true);
    for (at, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            '{' => depth += 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                names.push(&group[at..at + first(&group[at..])]);
                begins = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn a_name_is_found_wherever_it_stands() {
    for (line, named) in [
        ("use tokio::time;", true),
        ("    let sleep = tokio::time::sleep(second);", true),
        ("settings: Option<::tokio::Handle>,", true),
        ("other::tokio::time()", false),
        ("my_tokio::time()", false),
        ("tokio_util::sync()", false),
        ("a comment on tokio", false),
    ] {
        assert_eq!(names_crate(line, "tokio"), named, "{line}");
    }
    for (text, names) in [
        ("use crate::app::{Node, web};", &["app"][..]),
        ("use crate::{app, config::{Config, Server}, cli};", &["app", "config", "cli"]),
        ("use crate::{\n    app::{\n        a,\n        b,\n    },\n    config,\n};", &["app", "config"]),
        ("crate::front::table(&crate::config::read())", &["front", "config"]),
        ("$crate::named!{}", &[]),
    ] {
        assert_eq!(own_names(text), names, "{text}");
    }
}

/// Returns the files of `src/`, each with its folder, without comments and tests.
fn sources() -> Vec<(String, String)> {
    let mut sources = Vec::new();
    let source = root().join("src");
    for file in files(&source, "rs").into_iter().filter(|file| !is_test(file)) {
        let path = file.strip_prefix(&source).unwrap();
        let folder = path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&file).unwrap();
        // Tests may use more: fakes and real verifiers.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        sources.push((folder, lines.join("\n")));
    }
    sources
}

fn is_test(path: &std::path::Path) -> bool {
    path.components().any(|part| ["tests", "tests.rs", "testing.rs"].contains(&part.as_os_str().to_str().unwrap()))
}

/// Finds a path from a name back to itself, if there is one.
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
