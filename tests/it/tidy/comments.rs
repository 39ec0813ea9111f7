//! rustfmt breaks lines of code and leaves comments alone.

use std::fs;

use super::{files, root};

#[test]
fn comments_are_no_wider_than_code() {
    const WIDTH: usize = 120;
    let mut wide = Vec::new();
    for file in files(root(), "rs") {
        let text = fs::read_to_string(&file).unwrap();
        let comments = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//"));
        let too_wide = comments.filter(|(_, line)| line.chars().count() > WIDTH);
        let file = file.strip_prefix(root()).unwrap().display();
        wide.extend(too_wide.map(|(index, _)| format!("{file}:{}", index + 1)));
    }
    assert!(wide.is_empty(), "{wide:#?}");
}
