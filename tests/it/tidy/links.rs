//! Every link in a document leads to an existing file, and to an existing heading in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{files, relative, root};

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut wrong = Vec::new();
    let mut judged = 0;
    for file in files(root(), "md") {
        let text = fs::read_to_string(&file).unwrap();
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            judged += 1;
            if let Err(why) = follow(&file, &text, link) {
                wrong.push(format!("{}: {link}: {why}", relative(&file)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(judged > 100, "only {judged} links were found");
}

/// Returns the targets of a document's links, without those in samples.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in prose(text) {
        for (at, _) in line.match_indices("](") {
            let target = &line[at + 2..];
            let end = target.find(')').unwrap_or(target.len());
            found.push(target[..end].split(' ').next().unwrap_or_default());
        }
    }
    found
}

/// Returns the lines of a document outside of fenced samples.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_sample = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_sample ^= is_fence;
        !is_sample && !is_fence
    })
}

fn follow(from: &Path, text: &str, link: &str) -> Result<(), String> {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = if path.is_empty() { from.to_path_buf() } else { from.parent().unwrap().join(path) };
    if !target.exists() {
        return Err("there is no such file".to_owned());
    }
    let Some(anchor) = anchor else { return Ok(()) };
    let there = if path.is_empty() { text.to_owned() } else { fs::read_to_string(&target).unwrap_or_default() };
    if anchors(&there).contains(anchor) { Ok(()) } else { Err(format!("it has no heading #{anchor}")) }
}

/// Returns the anchors that a forge gives the headings of a document; repeated ones are numbered.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for heading in prose(text).filter(|line| line.starts_with('#')) {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let numbered = (0..).map(|n| if n == 0 { anchor.clone() } else { format!("{anchor}-{n}") });
        let free = numbered.into_iter().find(|name| !found.contains(name)).expect("numbers do not end");
        found.insert(free);
    }
    found
}

#[test]
fn headings_have_the_anchors_of_a_forge() {
    let text = "# One `thing`\n## What's next?\n```\n# no heading\n```\n## What's next?\n### A/B: c_d\n";
    let expected = ["one-thing", "whats-next", "whats-next-1", "ab-c_d"];
    assert_eq!(anchors(text), expected.map(str::to_owned).into());
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let (from, text) = (root().join("README.md"), "# Here\n");
    assert_eq!(links("[a](docs/x.md#y) and ![b](c.png \"title\")\n```\n[no](z)\n```"), ["docs/x.md#y", "c.png"]);
    assert!(follow(&from, text, "#here").is_ok());
    assert!(follow(&from, text, "#there").is_err());
    assert!(follow(&from, text, "docs").is_ok());
    assert!(follow(&from, text, "docs/no-such-page.md").is_err());
}
