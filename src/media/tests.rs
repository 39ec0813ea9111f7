use crate::media::testing::examine;
#[test]
fn real_files() {
    let Ok(dir) = std::env::var("FACTS_DIR") else { return };
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    for path in names {
        let bytes = std::fs::read(&path).unwrap();
        let t = std::time::Instant::now();
        let found = examine(&bytes, 16 << 20);
        println!(
            "{} {} bytes: fetched {} in {} looks, {:?}\n   {}",
            path.file_name().unwrap().display(),
            bytes.len(),
            found.fetched_bytes,
            found.looks,
            t.elapsed(),
            crate::state::facts_json(&found.facts)
        );
    }
}
